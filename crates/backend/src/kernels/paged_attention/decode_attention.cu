// Attention of generated rows, for one shape and format of keys and values.
#include "decode_attention.h"
#include "merge_attention.h"
#include "tiles.h"

#ifndef ATTENTION_GROUP
#define ATTENTION_K KvF16
#define ATTENTION_V KvF16
#define ATTENTION_K_DIM 128
#define ATTENTION_V_DIM 128
#define ATTENTION_GROUP 4
#endif

typedef Decode<ATTENTION_K, ATTENTION_V, ATTENTION_K_DIM, ATTENTION_V_DIM, ATTENTION_GROUP> DecodeShape;

// What the host gives the kernel.
#ifdef ATTENTION_SHARED
static_assert(DecodeShape::SHARED_BYTES == ATTENTION_SHARED && DECODE_THREADS == ATTENTION_THREADS, "the host's sizes");
#endif

extern "C" __global__ void __launch_bounds__(DECODE_THREADS, DecodeShape::BLOCKS)
    decode_attention(const AttentionArgs args, const uint *inputs, const Batch *batch, const float *q,
                     const uchar *k_cache, const uchar *v_cache, float *out, float *scratch) {
    extern __shared__ __align__(16) uchar shared[];
    decode_attention<ATTENTION_K, ATTENTION_V, ATTENTION_K_DIM, ATTENTION_V_DIM, ATTENTION_GROUP>(
        known_attention(args), inputs, *batch, q, k_cache, v_cache, out, scratch, shared);
}

extern "C" __global__ void __launch_bounds__(MERGE_THREADS, 3)
    merge_attention(const AttentionArgs args, const uint *inputs, const Batch *batch, const float *scratch,
                    float *out) {
    const AttentionArgs known = known_attention(args);
    const uint cols = known.n_heads * ATTENTION_V_DIM;
    merge_attention<ATTENTION_V_DIM>(
        known, inputs, *batch, scratch,
        [&](uint row, uint col, float4 values) { *(float4 *)(out + ulong(row) * cols + col) = values; },
        // It is where it shall be.
        [](uint, uint, uint) {});
}

#ifndef MERGE_RESULTS
#define MERGE_RESULTS QUANTISED
#define MERGE_SINGLE true
#endif

// The same that leaves rows as the map behind takes them: what they become, and whether they lie one by one, as a kernel
// for a single row takes them. `out` has those of a single split.
extern "C" __global__ void __launch_bounds__(MERGE_THREADS, 3)
    merge_converted(const MergeArgs args, const uint *inputs, const Batch *batch, const float *scratch,
                    const float *out, uchar *converted) {
    const AttentionArgs known = known_attention(args.attention);
    const uint cols = known.n_heads * ATTENTION_V_DIM, n_tiles = cols / 64;
    const auto put = [&](uint row, uint col, float4 values) {
        typedef QuantisedRows<true> SingleQuantised;
        typedef SplitRows<true, 1> SingleRounded;
        const ulong tile = ulong(row) * n_tiles + col / 64;
        switch (MERGE_RESULTS) {
        case QUANTISED:
            if (MERGE_SINGLE) SingleQuantised::put(converted + tile * SingleQuantised::SHARED_BYTES, col, values);
            else Quantise{converted, n_tiles}(row, col, values);
            break;
        case ROUNDED:
            if (MERGE_SINGLE) SingleRounded::put(converted + tile * SingleRounded::SHARED_BYTES, col, values);
            else Split<1>{converted, n_tiles}(row, col, values);
            break;
        case PROMPT:
            Round{(ushort *)converted, args.x_rows}(row, col, values);
        }
    };
    merge_attention<ATTENTION_V_DIM>(known, inputs, *batch, scratch, put, [&](uint row, uint head, uint lane) {
        UNROLL
        for (uint dim = 4 * lane; dim < ATTENTION_V_DIM; dim += 128) {
            const uint col = head * ATTENTION_V_DIM + dim;
            put(row, col, *(const float4 *)(out + ulong(row) * cols + col));
        }
    });
}
