// The body shared by both dialects: streaming softmax over pages, one
// threadgroup a row and query head.
//
// SIMD-group s of S takes the positions p with p % S == s, so that a row's sums
// are taken in an order that depends on its position alone.
#include "cache.h"

#define ATTENTION_SIMDGROUPS 8
// Elements a lane of the longest head: 256 in all.
#define ATTENTION_PER_LANE 8
#define ATTENTION_MAX_DIM (32 * ATTENTION_PER_LANE)
// Positions whose loads are under way together.
#define ATTENTION_AHEAD 4

// What a SIMD-group knows of the softmax so far.
struct Softmax {
    float max;                       // largest score
    float sum;                       // of exp(score - max)
    float out[ATTENTION_PER_LANE];   // of exp(score - max) * v, elements lane + 32 i
};

// A lane's elements of one position's key and value.
struct KeyValue {
    float k[ATTENTION_PER_LANE];
    float v[ATTENTION_PER_LANE];
};

template <typename K, typename V>
FN void load_position(CONSTANT AttentionArgs &args, DEVICE const uint *table, DEVICE const uchar *k_cache,
                      DEVICE const uchar *v_cache, uint kv_head, uint position, uint lane, THREAD KeyValue &kv) {
    const uint page = table[position / args.page_size], offset = position % args.page_size;
    DEVICE const uchar *k = k_cache +
        kv_vector(page, offset, kv_head, args.n_kv_heads, args.page_size, K::bytes(args.k_dim));
    DEVICE const uchar *v = v_cache +
        kv_vector(page, offset, kv_head, args.n_kv_heads, args.page_size, V::bytes(args.v_dim));
    UNROLL
    for (uint i = 0; i < ATTENTION_PER_LANE; i++) {
        kv.k[i] = lane + 32 * i < args.k_dim ? K::load(k, args.k_dim, lane + 32 * i) : 0;
        kv.v[i] = lane + 32 * i < args.v_dim ? V::load(v, args.v_dim, lane + 32 * i) : 0;
    }
}

// One position more.
FN void attend(CONSTANT AttentionArgs &args, THREAD const float *q, THREAD const KeyValue &kv,
               THREAD Softmax &state) {
    float dot = 0;
    UNROLL
    for (uint i = 0; i < ATTENTION_PER_LANE; i++) dot = multiply_add(q[i], kv.k[i], dot);
    float score = args.scale * simd_sum(dot);
    if (args.softcap > 0) score = args.softcap * exact_tanh(score / args.softcap);
    const float max = larger(state.max, score);
    const float keep = exact_exp(state.max - max), p = exact_exp(score - max);
    state.sum = multiply_add(state.sum, keep, p);
    UNROLL
    for (uint i = 0; i < ATTENTION_PER_LANE; i++) state.out[i] = multiply_add(state.out[i], keep, p * kv.v[i]);
    state.max = max;
}

// Joins the SIMD-groups' states, in their order, and writes the row's head.
FN void merge_attention(CONSTANT AttentionArgs &args, THREAD const Softmax &state, DEVICE float *out,
                        THREADGROUP float *maxima, THREADGROUP float *sums, THREADGROUP float *outs,
                        Threads t) {
    if (t.lane == 0) {
        maxima[t.simdgroup] = state.max;
        sums[t.simdgroup] = state.sum;
    }
    UNROLL
    for (uint i = 0; i < ATTENTION_PER_LANE; i++) {
        if (t.lane + 32 * i < args.v_dim) outs[t.simdgroup * ATTENTION_MAX_DIM + t.lane + 32 * i] = state.out[i];
    }
    group_barrier();
    float max = maxima[0];
    for (uint s = 1; s < ATTENTION_SIMDGROUPS; s++) max = larger(max, maxima[s]);
    float sum = 0;
    for (uint s = 0; s < ATTENTION_SIMDGROUPS; s++) sum += sums[s] * exact_exp(maxima[s] - max);
    for (uint i = t.index; i < args.v_dim; i += t.count) {
        float value = 0;
        for (uint s = 0; s < ATTENTION_SIMDGROUPS; s++) {
            value = multiply_add(outs[s * ATTENTION_MAX_DIM + i], exact_exp(maxima[s] - max), value);
        }
        out[i] = value / sum;
    }
}

template <typename K, typename V>
FN void paged_attention(CONSTANT AttentionArgs &args, DEVICE const uint *inputs, DEVICE const float *q,
                        DEVICE const uchar *k_cache, DEVICE const uchar *v_cache, DEVICE float *out,
                        THREADGROUP float *maxima, THREADGROUP float *sums, THREADGROUP float *outs, uint head,
                        uint row, Threads t) {
    if (row >= inputs[args.n_rows_at]) return;
    const uint position = inputs[args.places_at + row];
    const uint start = args.window && position + 1 > args.window ? position + 1 - args.window : 0;
    DEVICE const uint *table = inputs + args.block_tables_at + inputs[args.sequences_at + row] * args.max_pages;
    const uint kv_head = head / (args.n_heads / args.n_kv_heads);
    q += (ulong(row) * args.n_heads + head) * args.k_dim;
    out += (ulong(row) * args.n_heads + head) * args.v_dim;

    float query[ATTENTION_PER_LANE];
    // A finite start: exp(max - max) must not be exp(inf - inf) in SIMD-groups without positions.
    Softmax state;
    state.max = -3.0e38f;
    state.sum = 0;
    UNROLL
    for (uint i = 0; i < ATTENTION_PER_LANE; i++) {
        query[i] = t.lane + 32 * i < args.k_dim ? q[t.lane + 32 * i] : 0;
        state.out[i] = 0;
    }
    uint p = start / ATTENTION_SIMDGROUPS * ATTENTION_SIMDGROUPS + t.simdgroup;
    if (p < start) p += ATTENTION_SIMDGROUPS;
    for (; p <= position; p += ATTENTION_SIMDGROUPS * ATTENTION_AHEAD) {
        KeyValue kv[ATTENTION_AHEAD];
        UNROLL
        for (uint i = 0; i < ATTENTION_AHEAD; i++) {
            // What is beyond the last position loads it again, and is left out below.
            const uint at = min(p + i * ATTENTION_SIMDGROUPS, position);
            load_position<K, V>(args, table, k_cache, v_cache, kv_head, at, t.lane, kv[i]);
        }
        UNROLL
        for (uint i = 0; i < ATTENTION_AHEAD; i++) {
            if (p + i * ATTENTION_SIMDGROUPS <= position) attend(args, query, kv[i], state);
        }
    }
    merge_attention(args, state, out, maxima, sums, outs, t);
}
