// The body shared by both dialects; one SIMD-group a head of q, k or v.
#include "cache.h"

// Where the inputs have the number of generated rows, which come first.
#define GENERATED_AT 2

// Where a head's elements go: back to where they were, or to the cache.
struct HeadOut {
    DEVICE float *x;  // null for what goes to the cache
    DEVICE uchar *vector;
    uint format;
    MEMBER void store(uint i, float value) const {
        if (x) x[i] = value;
        else store_kv(format, vector, i, value);
    }
};

// What a pair is turned by, times the magnitude.
struct Turn {
    float cosine, sine;
};

// The turns of a position.
struct Turns {
    DEVICE const float *inv_freq;
    float position, magnitude;
    MEMBER Turn at(uint pair) const {
        // The product's rounding error is small, but not against 1 at position 100,000: one more term of the sum.
        const float angle = position * inv_freq[pair];
        const float error = multiply_add(position, inv_freq[pair], -angle);
        float sine, cosine;
        exact_sincos(angle, sine, cosine);
        Turn turn;
        turn.cosine = magnitude * (cosine - error * sine), turn.sine = magnitude * (sine + error * cosine);
        return turn;
    }
};

// Normalises and rotates one head, which may be written where it is read:
// each element is read and written by the same lane, but for its square, which is read before lanes have the sum of all.
template <typename AllTurns, typename Out>
FN void rope_head(CONSTANT RopeStoreArgs &args, DEVICE const float *x, DEVICE const float *norm, float eps,
                  THREAD const AllTurns &turns, THREAD const Out &out, uint lane) {
    float scale = 1;
    if (args.has_norm) {
        float squares = 0;
        for (uint i = lane; i < args.k_dim; i += 32) squares = multiply_add(x[i], x[i], squares);
        scale = 1.0f / exact_sqrt(simd_sum(squares) / float(args.k_dim) + eps);
    }
    for (uint pair = lane; pair < args.n_pairs; pair += 32) {
        const uint i = args.adjacent ? 2 * pair : pair;
        const uint j = args.adjacent ? 2 * pair + 1 : pair + args.n_pairs;
        const float a = args.has_norm ? x[i] * scale * norm[i] : x[i];
        const float b = args.has_norm ? x[j] * scale * norm[j] : x[j];
        const Turn turn = turns.at(pair);
        out.store(i, a * turn.cosine - b * turn.sine);
        out.store(j, a * turn.sine + b * turn.cosine);
    }
    for (uint i = 2 * args.n_pairs + lane; i < args.k_dim; i += 32) {
        out.store(i, args.has_norm ? x[i] * scale * norm[i] : x[i]);
    }
}

// The turns of a row.
FN Turns turns_of(CONSTANT RopeStoreArgs &args, DEVICE const uint *inputs, DEVICE const float *inv_freq, uint row) {
    Turns turns;
    turns.inv_freq = inv_freq, turns.position = float(inputs[args.positions_at + row]), turns.magnitude = args.magnitude;
    return turns;
}

// One of a row's heads, by one SIMD-group: query heads come first, then key heads, then value heads. `slot` is the
// row's in the cache.
template <typename AllTurns>
FN void rope_store_turned(CONSTANT RopeStoreArgs &args, THREAD const AllTurns &turns, uint slot, DEVICE float *q,
                          DEVICE float *k, DEVICE const float *v, DEVICE const float *q_norm,
                          DEVICE const float *k_norm, DEVICE uchar *k_cache, DEVICE uchar *v_cache, uint head,
                          uint row, uint lane) {
    if (head < args.n_heads) {
        DEVICE float *x = q + (ulong(row) * args.n_heads + head) * args.k_dim;
        HeadOut out = {x, k_cache, 0};
        rope_head(args, x, q_norm, args.q_eps, turns, out, lane);
        return;
    }
    const uint page = slot / args.page_size, offset = slot % args.page_size;
    head -= args.n_heads;
    if (head < args.n_kv_heads) {
        const uint bytes = kv_bytes(args.k_format, args.k_dim);
        DEVICE uchar *vector = k_cache + kv_vector(page, offset, head, args.n_kv_heads, args.page_size, bytes);
        DEVICE float *x = k + (ulong(row) * args.n_kv_heads + head) * args.k_dim;
        // A scale needs 32 rotated elements, which several lanes have: they meet in k.
        HeadOut out = {args.k_format == KV_Q8_0 ? x : 0, vector, args.k_format};
        rope_head(args, x, k_norm, args.k_eps, turns, out, lane);
        if (args.k_format == KV_Q8_0) {
            simd_barrier();
            store_q8_0(vector, x, args.k_dim, lane);
        }
        return;
    }
    head -= args.n_kv_heads;
    const uint bytes = kv_bytes(args.v_format, args.v_dim);
    DEVICE uchar *vector = v_cache + kv_vector(page, offset, head, args.n_kv_heads, args.page_size, bytes);
    DEVICE const float *x = v + (ulong(row) * args.n_kv_heads + head) * args.v_dim;
    if (args.v_format == KV_Q8_0) {
        store_q8_0(vector, x, args.v_dim, lane);
        return;
    }
    for (uint i = lane; i < args.v_dim; i += 32) store_kv(args.v_format, vector, i, x[i]);
}

FN void rope_store_one(CONSTANT RopeStoreArgs &args, DEVICE const uint *inputs, DEVICE float *q, DEVICE float *k,
                       DEVICE const float *v, DEVICE const float *q_norm, DEVICE const float *k_norm,
                       DEVICE const float *inv_freq, DEVICE uchar *k_cache, DEVICE uchar *v_cache, uint head,
                       uint row, uint lane) {
    const Turns turns = turns_of(args, inputs, inv_freq, row);
    rope_store_turned(args, turns, inputs[args.slots_at + row], q, k, v, q_norm, k_norm, k_cache, v_cache, head, row,
                      lane);
}
