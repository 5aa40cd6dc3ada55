// Attention of prompt rows on Metal, by matrices of 8x8: streaming softmax over blocks of positions.
//
// Limited by operations: a threadgroup has 64 rows of one query head, so that each key and value that is read
// and unpacked, once for all of them, is multiplied 64 times. Each of its eight SIMD-groups keeps eight rows'
// queries and results in registers (at 128 dimensions 64 a lane, with scores 72), and loads one matrix of keys
// or values for each product; scores go through threadgroup memory, where four lanes share a row, because
// which lane has which element of a matrix is not documented. A block has as many positions, at most 32, as
// have their keys and values in 16 KiB, so that all formats and heads of up to 256 fit beside the scores.
//
// Keys and values become halves, or floats where a half cannot have them (F32 and BF16); of Q8_0 those beyond
// 65504, which no model has, become infinite. Queries, shares and sums are floats. Blocks begin at multiples
// of their length, and one of which a row sees nothing leaves it as it is, so that a row's sums depend on its
// position alone, not on the rows beside it.
#ifndef QUARREL_MATRIX_ATTENTION_H
#define QUARREL_MATRIX_ATTENTION_H

#include "cache_fours.h"
#include "matrix_tiles.h"

// The most elements of a head, a multiple of 32: whoever knows defines it before.
#ifndef ATTENTION_DIM
#define ATTENTION_DIM 256
#endif
#define DIM_MATRICES (ATTENTION_DIM / SIDE)
// As `gpu.rs` has it: rows of a threadgroup, eight a SIMD-group. An item of a prompt has 128.
#define QUERY_ROWS 64
#define QUERY_SIMDGROUPS (QUERY_ROWS / SIDE)
#define ITEM_ROWS 128
#define TILE_FLOATS 4096
#define MOST_POSITIONS 32
// Floats from one row of a SIMD-group's scores to the next: four lanes a row find eight rows in 32 banks.
#define STRIDE 36
// Below any score, and finite: nothing must become exp(inf - inf).
#define LOWEST -3.0e38f

// What a cache's elements become.
template <typename Kv> struct CacheTiles : HalfTiles {};
template <> struct CacheTiles<KvF32> : FloatTiles {};
template <> struct CacheTiles<KvBF16> : FloatTiles {};

// Positions of a block, as many as fit.
template <typename K, typename V> struct BlockOf {
    enum { K_BYTES = CacheTiles<K>::BYTES, V_BYTES = CacheTiles<V>::BYTES };
    enum { FIT = 4 * TILE_FLOATS / (ATTENTION_DIM * (K_BYTES + V_BYTES)) / SIDE * SIDE };
    enum { POSITIONS = FIT < MOST_POSITIONS ? FIT : MOST_POSITIONS, BANDS = POSITIONS / SIDE };
    enum { KEY_FLOATS = POSITIONS * ATTENTION_DIM * K_BYTES / 4 };
};

// A SIMD-group's part of the threadgroup's memory.
struct RowMemory {
    float scores[SIDE * STRIDE];
    // Factors of its rows, as a diagonal matrix.
    float factors[MATRIX];
};

struct AttentionMemory {
    float tile[TILE_FLOATS];
    RowMemory rows[QUERY_SIMDGROUPS];
};

// Rows of a prompt that follow each other, for one query head.
struct Queries {
    device const uint *table;
    uint first_row, n_rows;
    uint head, kv_head;
    uint first_place;  // of the first row in its context
    uint window;

    // The first position that the row `i` sees; its own is the last.
    uint from(uint i) const {
        const uint end = first_place + i + 1;
        return window && end > window ? end - window : 0;
    }
    uint row(uint i) const { return min(i, n_rows - 1); }
};

// The rows of threadgroup `index`; `n_rows` is 0 for one too many.
FN Queries find_queries(constant AttentionArgs &args, device const uint *inputs, uint index) {
    Queries queries;
    queries.head = index % args.n_heads;
    queries.kv_head = queries.head / (args.n_heads / args.n_kv_heads);
    queries.window = args.window;
    queries.n_rows = 0;
    const uint piece = index / args.n_heads, pieces = ITEM_ROWS / QUERY_ROWS;
    if (piece / pieces >= inputs[args.n_items_at]) return queries;
    device const uint *item = inputs + args.items_at + 2 * (piece / pieces);
    const uint skipped = piece % pieces * QUERY_ROWS;
    if (skipped >= item[1]) return queries;
    queries.first_row = item[0] + skipped;
    queries.n_rows = min(item[1] - skipped, uint(QUERY_ROWS));
    queries.first_place = inputs[args.places_at + queries.first_row];
    queries.table = inputs + args.block_tables_at + inputs[args.sequences_at + queries.first_row] * args.max_pages;
    return queries;
}

// Puts keys or values of the positions from `block` on into the tile; those outside of `from..end` are 0.
template <typename Kv>
FN void fill_tile(constant AttentionArgs &args, Queries queries, device const uchar *cache, uint dim, uint block,
                  uint positions, uint from, uint end, threadgroup typename CacheTiles<Kv>::Element *tile,
                  Threads t) {
    for (uint i = t.index; i < positions * DIM_MATRICES; i += t.count) {
        const uint at = i / DIM_MATRICES, col = i % DIM_MATRICES, position = block + at, first = col * SIDE;
        float values[SIDE];
        for (uint j = 0; j < SIDE; j++) values[j] = 0;
        if (from <= position && position < end && first < dim) {
            const uint page = queries.table[position / args.page_size], offset = position % args.page_size;
            device const uchar *vector =
                cache + kv_vector(page, offset, queries.kv_head, args.n_kv_heads, args.page_size, Kv::bytes(dim));
            if (first + SIDE <= dim) {
                Four<Kv>::load(vector, dim, first, values);
                Four<Kv>::load(vector, dim, first + 4, values + 4);
            } else {
                for (uint j = 0; first + j < dim; j++) values[j] = Kv::load(vector, dim, first + j);
            }
        }
        store_run<CacheTiles<Kv> >(tile + run_place(at, col, DIM_MATRICES), values);
    }
}

// What a SIMD-group has of its rows: four lanes a row know its largest score so far, and each a part of the
// sum of shares.
struct RowState {
    simdgroup_float8x8 queries[DIM_MATRICES];
    simdgroup_float8x8 outs[DIM_MATRICES];
    float most;
    float sum;
};

FN void load_queries(constant AttentionArgs &args, Queries queries, uint first, device const float *q,
                     threadgroup RowMemory &memory, uint lane, thread RowState &state) {
    UNROLL
    for (uint chunk = 0; chunk < DIM_MATRICES / 4; chunk++) {
        const uint col = 32 * chunk + lane;
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint r = 0; r < SIDE; r++) {
            const ulong row = queries.first_row + queries.row(first + r);
            memory.scores[r * STRIDE + lane] =
                col < args.k_dim ? q[(row * args.n_heads + queries.head) * args.k_dim + col] : 0;
        }
        simdgroup_barrier(mem_flags::mem_threadgroup);
        UNROLL
        for (uint j = 0; j < 4; j++) {
            simdgroup_load(state.queries[4 * chunk + j], memory.scores + j * SIDE, STRIDE);
            state.outs[4 * chunk + j] = make_filled_simdgroup_matrix<float, 8>(0.0f);
        }
    }
    state.most = LOWEST, state.sum = 0;
}

// Scores of a block's keys, to the SIMD-group's memory.
template <typename K, uint BANDS>
FN void find_scores(constant AttentionArgs &args, thread const RowState &state,
                    threadgroup const typename CacheTiles<K>::Element *tile, threadgroup RowMemory &memory) {
    simdgroup_float8x8 scores[BANDS];
    for (uint j = 0; j < BANDS; j++) scores[j] = make_filled_simdgroup_matrix<float, 8>(0.0f);
    UNROLL
    for (uint d = 0; d < DIM_MATRICES; d++) {
        if (d * SIDE >= args.k_dim) continue;
        UNROLL
        for (uint j = 0; j < BANDS; j++) {
            typename CacheTiles<K>::Matrix keys;
            simdgroup_load(keys, tile + (j * DIM_MATRICES + d) * MATRIX, SIDE, ulong2(0), true);
            simdgroup_multiply_accumulate(scores[j], state.queries[d], keys, scores[j]);
        }
    }
    // What was there has been read: tiles were filled since then.
    for (uint j = 0; j < BANDS; j++) simdgroup_store(scores[j], memory.scores + j * SIDE, STRIDE);
    simdgroup_barrier(mem_flags::mem_threadgroup);
}

// Scores become shares, relative to the largest so far, and what there is already becomes relative to it too.
// The lane's row sees `from..end` of the block.
template <uint POSITIONS>
FN void find_shares(constant AttentionArgs &args, uint from, uint end, threadgroup RowMemory &memory, uint lane,
                    thread RowState &state) {
    const uint row = lane / 4, part = lane % 4;
    threadgroup float *scores = memory.scores + row * STRIDE + part;
    float own[POSITIONS / 4], most = state.most;
    UNROLL
    for (uint i = 0; i < POSITIONS / 4; i++) {
        own[i] = args.scale * scores[4 * i];
        if (args.softcap > 0) own[i] = args.softcap * exact_tanh(own[i] / args.softcap);
        if (from <= part + 4 * i && part + 4 * i < end) most = larger(most, own[i]);
    }
    most = larger(most, simd_shuffle_xor(most, 1));
    most = larger(most, simd_shuffle_xor(most, 2));
    const float factor = exact_exp(state.most - most);
    state.sum *= factor;
    UNROLL
    for (uint i = 0; i < POSITIONS / 4; i++) {
        const float share = from <= part + 4 * i && part + 4 * i < end ? exact_exp(own[i] - most) : 0;
        scores[4 * i] = share;
        state.sum += share;
    }
    const bool is_larger = simd_max(most > state.most ? 1.0f : 0.0f) > 0;
    state.most = most;
    if (part == 0) memory.factors[row * SIDE + row] = factor;
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (!is_larger) return;
    simdgroup_float8x8 factors;
    simdgroup_load(factors, memory.factors, SIDE);
    UNROLL
    for (uint d = 0; d < DIM_MATRICES; d++) {
        if (d * SIDE < args.v_dim) simdgroup_multiply(state.outs[d], factors, state.outs[d]);
    }
}

// Adds a block's values by their shares.
template <typename V, uint BANDS>
FN void add_values(constant AttentionArgs &args, threadgroup const typename CacheTiles<V>::Element *tile,
                   threadgroup const RowMemory &memory, thread RowState &state) {
    simdgroup_float8x8 shares[BANDS];
    for (uint j = 0; j < BANDS; j++) simdgroup_load(shares[j], memory.scores + j * SIDE, STRIDE);
    UNROLL
    for (uint d = 0; d < DIM_MATRICES; d++) {
        if (d * SIDE >= args.v_dim) continue;
        UNROLL
        for (uint j = 0; j < BANDS; j++) {
            typename CacheTiles<V>::Matrix values;
            simdgroup_load(values, tile + (j * DIM_MATRICES + d) * MATRIX, SIDE);
            simdgroup_multiply_accumulate(state.outs[d], shares[j], values, state.outs[d]);
        }
    }
}

FN void write_outs(constant AttentionArgs &args, Queries queries, uint first, device float *out,
                   threadgroup RowMemory &memory, uint lane, thread RowState &state) {
    state.sum += simd_shuffle_xor(state.sum, 1);
    state.sum += simd_shuffle_xor(state.sum, 2);
    if (lane % 4 == 0) memory.factors[lane / 4] = state.sum;
    UNROLL
    for (uint chunk = 0; chunk < DIM_MATRICES / 4; chunk++) {
        simdgroup_barrier(mem_flags::mem_threadgroup);
        UNROLL
        for (uint j = 0; j < 4; j++) simdgroup_store(state.outs[4 * chunk + j], memory.scores + j * SIDE, STRIDE);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        const uint col = 32 * chunk + lane;
        for (uint r = 0; r < SIDE; r++) {
            if (first + r >= queries.n_rows || col >= args.v_dim) continue;
            const ulong row = queries.first_row + first + r;
            // Of a zero the sign depends on blocks of which the row sees nothing.
            out[(row * args.n_heads + queries.head) * args.v_dim + col] =
                memory.scores[r * STRIDE + lane] / memory.factors[r] + 0.0f;
        }
    }
}

template <typename K, typename V>
FN void attend_rows(constant AttentionArgs &args, Queries queries, device const float *q,
                    device const uchar *k_cache, device const uchar *v_cache, device float *out,
                    threadgroup AttentionMemory &memory, Threads t) {
    typedef BlockOf<K, V> Block;
    threadgroup RowMemory &own = memory.rows[t.simdgroup];
    threadgroup typename CacheTiles<K>::Element *keys = (threadgroup typename CacheTiles<K>::Element *)memory.tile;
    threadgroup typename CacheTiles<V>::Element *values =
        (threadgroup typename CacheTiles<V>::Element *)(memory.tile + Block::KEY_FLOATS);
    const uint first = SIDE * t.simdgroup;
    // Positions that the threadgroup's rows see, this SIMD-group's, and this lane's.
    const uint all_from = queries.from(0), all_end = queries.first_place + queries.n_rows;
    const uint some_from = queries.from(first), some_end = queries.first_place + queries.row(first + SIDE - 1) + 1;
    const uint lane_row = queries.row(first + t.lane / 4);
    const uint lane_from = queries.from(lane_row), lane_end = queries.first_place + lane_row + 1;
    RowState state;
    load_queries(args, queries, first, q, own, t.lane, state);
    for (uint i = t.lane; i < MATRIX; i += 32) own.factors[i] = 0;
    for (uint block = all_from / Block::POSITIONS * Block::POSITIONS; block < all_end; block += Block::POSITIONS) {
        // What is there has been read.
        group_barrier();
        fill_tile<K>(args, queries, k_cache, args.k_dim, block, Block::POSITIONS, all_from, all_end, keys, t);
        fill_tile<V>(args, queries, v_cache, args.v_dim, block, Block::POSITIONS, all_from, all_end, values, t);
        group_barrier();
        if (first >= queries.n_rows || some_end <= block || some_from >= block + Block::POSITIONS) continue;
        const uint from = max(lane_from, block) - block, end = max(lane_end, block) - block;
        find_scores<K, Block::BANDS>(args, state, keys, own);
        find_shares<Block::POSITIONS>(args, from, end, own, t.lane, state);
        add_values<V, Block::BANDS>(args, values, own, state);
    }
    if (first < queries.n_rows) write_outs(args, queries, first, out, own, t.lane, state);
}

#endif
