// Attention of generated rows on Metal: a threadgroup takes 128 positions of one row (a split) and the
// query heads that share a key/value head, some at a time, so that keys and values are read once for
// them. Another kernel folds a row's splits in their order.
//
// Splits begin at multiples of their length and a SIMD-group takes 32 positions of one, so that how a
// row's sums are taken depends on its position alone.
#ifndef QUARREL_SPLIT_ATTENTION_H
#define QUARREL_SPLIT_ATTENTION_H

#include "cache_fours.h"

// As `items.rs` has it.
#define SPLIT 128
#define SPLIT_SIMDGROUPS (SPLIT / 32)
// As `gpu.rs` has it: threadgroups, which take splits in turn.
#define SPLIT_GROUPS 2048
// Query heads at a time, and positions whose loads are under way together.
#define HEADS 4
#define AHEAD 4
// Elements a lane of the longest head: 256 in all, in fours that lie 128 apart.
#define FOURS 2
#define MAX_DIM (128 * FOURS)
// Below any score, and finite: nothing must become exp(inf - inf).
#define LOWEST -3.0e38f

// Generated rows whose partial results fit into scratch together, and their items: a row, a split, the row's place in its
// context and its sequence; a row's splits one after another.
struct Batch {
    uint items_at, n_items, first_row, end_row;
};

// A lane's elements of a vector; those that it does not have are 0.
template <typename Kv> FN void load_fours(device const uchar *vector, uint dim, uint lane, thread float *x) {
    UNROLL
    for (uint f = 0; f < FOURS; f++) {
        const uint i = 128 * f + 4 * lane;
        if (i + 4 <= dim) {
            Four<Kv>::load(vector, dim, i, x + 4 * f);
        } else {
            UNROLL
            for (uint j = 0; j < 4; j++) x[4 * f + j] = i + j < dim ? Kv::load(vector, dim, i + j) : 0;
        }
    }
}

// What a threadgroup does at a time: a split of a row for a key/value head.
struct Work {
    device const uint *table;
    uint item, row, kv_head;
    uint from, to;  // positions of the split that the row sees, `to` excluded
    uint first;     // of this SIMD-group's 32
    uint n_splits;  // of the row

    // Whether any of the positions from `i` of this SIMD-group's are seen.
    bool meets(uint i) const { return first + i < to && first + i + AHEAD > from; }
    // A position near this SIMD-group's `i`th that is seen.
    uint seen(uint i) const { return min(max(first + i, from), to - 1); }
};

FN Work find_work(constant AttentionArgs &args, device const uint *inputs, device const Batch *batch, uint index,
                  Threads t) {
    Work work;
    work.item = index / args.n_kv_heads, work.kv_head = index % args.n_kv_heads;
    device const uint *item = inputs + batch->items_at + 4 * work.item;
    work.row = item[0];
    const uint split = item[1], end = item[2] + 1;
    const uint start = args.window && end > args.window ? end - args.window : 0;
    work.table = inputs + args.block_tables_at + item[3] * args.max_pages;
    work.from = max(start, split * SPLIT), work.to = min(end, split * SPLIT + SPLIT);
    work.first = split * SPLIT + 32 * t.simdgroup;
    work.n_splits = (end - 1) / SPLIT + 1 - start / SPLIT;
    return work;
}

// A lane's elements of keys or values near this SIMD-group's position `i` and those behind it.
template <typename Kv>
FN void load_ahead(constant AttentionArgs &args, Work work, device const uchar *cache, uint dim, uint i, uint lane,
                   thread float (*x)[4 * FOURS]) {
    UNROLL
    for (uint j = 0; j < AHEAD; j++) {
        const uint position = work.seen(i + j);
        const uint page = work.table[position / args.page_size], offset = position % args.page_size;
        const ulong at = kv_vector(page, offset, work.kv_head, args.n_kv_heads, args.page_size, Kv::bytes(dim));
        load_fours<Kv>(cache + at, dim, lane, x[j]);
    }
}

// Each lane's position's scores.
template <typename K>
FN void find_scores(constant AttentionArgs &args, Work work, device const uchar *k_cache,
                    thread const float (*q)[4 * FOURS], uint lane, thread float *scores) {
    for (uint h = 0; h < HEADS; h++) scores[h] = 0;
    for (uint i = 0; i < 32; i += AHEAD) {
        if (!work.meets(i)) continue;
        float k[AHEAD][4 * FOURS];
        load_ahead<K>(args, work, k_cache, args.k_dim, i, lane, k);
        UNROLL
        for (uint j = 0; j < AHEAD; j++) {
            UNROLL
            for (uint h = 0; h < HEADS; h++) {
                float dot = 0;
                UNROLL
                for (uint d = 0; d < 4 * FOURS; d++) dot = multiply_add(q[h][d], k[j][d], dot);
                dot = simd_sum(dot);
                if (lane == i + j) scores[h] = dot;
            }
        }
    }
    for (uint h = 0; h < HEADS; h++) {
        scores[h] *= args.scale;
        if (args.softcap > 0) scores[h] = args.softcap * exact_tanh(scores[h] / args.softcap);
    }
}

// The threadgroup's memory.
struct SplitMemory {
    float shares[SPLIT_SIMDGROUPS][HEADS][32];
    float maxima[SPLIT_SIMDGROUPS][HEADS];
    float sums[SPLIT_SIMDGROUPS][HEADS];
    float outs[SPLIT_SIMDGROUPS][MAX_DIM];
};

// Shares of this SIMD-group's positions, relative to the largest of their scores.
FN void find_shares(Work work, thread const float *scores, threadgroup SplitMemory &memory, Threads t) {
    const uint position = work.first + t.lane;
    const bool is_seen = work.from <= position && position < work.to;
    for (uint h = 0; h < HEADS; h++) {
        const float most = simd_max(is_seen ? larger(scores[h], LOWEST) : LOWEST);
        const float share = is_seen ? exact_exp(scores[h] - most) : 0;
        const float sum = simd_sum(share);
        memory.shares[t.simdgroup][h][t.lane] = share;
        if (t.lane == 0) memory.maxima[t.simdgroup][h] = most, memory.sums[t.simdgroup][h] = sum;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
}

template <typename V>
FN void add_values(constant AttentionArgs &args, Work work, device const uchar *v_cache,
                   threadgroup SplitMemory &memory, Threads t, thread float (*sums)[4 * FOURS]) {
    for (uint h = 0; h < HEADS; h++) {
        for (uint d = 0; d < 4 * FOURS; d++) sums[h][d] = 0;
    }
    for (uint i = 0; i < 32; i += AHEAD) {
        if (!work.meets(i)) continue;
        float v[AHEAD][4 * FOURS];
        load_ahead<V>(args, work, v_cache, args.v_dim, i, t.lane, v);
        UNROLL
        for (uint j = 0; j < AHEAD; j++) {
            UNROLL
            for (uint h = 0; h < HEADS; h++) {
                const float share = memory.shares[t.simdgroup][h][i + j];
                UNROLL
                for (uint d = 0; d < 4 * FOURS; d++) sums[h][d] = multiply_add(share, v[j][d], sums[h][d]);
            }
        }
    }
}

// Joins the SIMD-groups' sums of one head and writes them: the result where the row has no other split,
// else the split's part of it, for `merge_splits`.
FN void write_split(constant AttentionArgs &args, Work work, uint head, uint h, threadgroup SplitMemory &memory,
                    device float *out, device float *scratch, Threads t) {
    float most = memory.maxima[0][h];
    for (uint s = 1; s < SPLIT_SIMDGROUPS; s++) most = larger(most, memory.maxima[s][h]);
    float weights[SPLIT_SIMDGROUPS], sum = 0;
    for (uint s = 0; s < SPLIT_SIMDGROUPS; s++) {
        weights[s] = exact_exp(memory.maxima[s][h] - most);
        sum = multiply_add(memory.sums[s][h], weights[s], sum);
    }
    const bool is_whole = work.n_splits == 1;
    const ulong part = ulong(work.item) * args.n_heads + head;
    device float *to = is_whole ? out + (ulong(work.row) * args.n_heads + head) * args.v_dim
                                : scratch + part * args.v_dim;
    for (uint d = t.index; d < args.v_dim; d += t.count) {
        float value = 0;
        for (uint s = 0; s < SPLIT_SIMDGROUPS; s++) value = multiply_add(memory.outs[s][d], weights[s], value);
        to[d] = is_whole ? value / sum : value;
    }
    if (is_whole || t.index != 0) return;
    device float *totals = scratch + ulong(args.max_items) * args.n_heads * args.v_dim + 2 * part;
    totals[0] = most, totals[1] = sum;
}

// One split of one row, for the query heads of a key/value head.
template <typename K, typename V>
FN void attend_split(constant AttentionArgs &args, Work work, device const float *q, device const uchar *k_cache,
                     device const uchar *v_cache, device float *out, device float *scratch,
                     threadgroup SplitMemory &memory, Threads t) {
    const uint group = args.n_heads / args.n_kv_heads;
    for (uint first = 0; first < group; first += HEADS) {
        float queries[HEADS][4 * FOURS], scores[HEADS], sums[HEADS][4 * FOURS];
        for (uint h = 0; h < HEADS; h++) {
            // Heads beyond the last repeat it, unwritten.
            const uint head = work.kv_head * group + min(first + h, group - 1);
            device const float *query = q + (ulong(work.row) * args.n_heads + head) * args.k_dim;
            load_fours<KvF32>((device const uchar *)query, args.k_dim, t.lane, queries[h]);
        }
        find_scores<K>(args, work, k_cache, queries, t.lane, scores);
        // What is there has been read.
        group_barrier();
        find_shares(work, scores, memory, t);
        add_values<V>(args, work, v_cache, memory, t, sums);
        UNROLL
        for (uint h = 0; h < HEADS; h++) {
            UNROLL
            for (uint d = 0; d < 4 * FOURS; d++) {
                memory.outs[t.simdgroup][128 * (d / 4) + 4 * t.lane + d % 4] = sums[h][d];
            }
            group_barrier();
            const uint head = work.kv_head * group + first + h;
            if (first + h < group) write_split(args, work, head, h, memory, out, scratch, t);
            group_barrier();
        }
    }
}

// Folds the splits of a row's head.
FN void fold_splits(constant AttentionArgs &args, device const uint *inputs, device const Batch *batch,
                     device const float *scratch, device float *out, uint head, uint row, Threads t) {
    row += batch->first_row;
    if (row >= batch->end_row) return;
    const uint end = inputs[args.places_at + row] + 1;
    const uint start = args.window && end > args.window ? end - args.window : 0;
    const uint n_splits = (end - 1) / SPLIT + 1 - start / SPLIT;
    if (n_splits == 1) return;
    const ulong part = ulong(inputs[args.row_items_at + row]) * args.n_heads + head, step = args.n_heads;
    device const float *totals = scratch + ulong(args.max_items) * args.n_heads * args.v_dim + 2 * part;
    float most = LOWEST;
    for (uint i = 0; i < n_splits; i++) most = larger(most, totals[2 * i * step]);
    for (uint d = t.index; d < args.v_dim; d += t.count) {
        float value = 0, sum = 0;
        for (uint i = 0; i < n_splits; i++) {
            const float weight = exact_exp(totals[2 * i * step] - most);
            value = multiply_add(scratch[(part + i * step) * args.v_dim + d], weight, value);
            sum = multiply_add(totals[2 * i * step + 1], weight, sum);
        }
        out[(ulong(row) * args.n_heads + head) * args.v_dim + d] = value / sum;
    }
}

#endif
