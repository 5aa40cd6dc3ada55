// Attention of generated rows, for one shape and format of keys and values.
#include "decode_attention.h"
#include "merge_attention.h"

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
        args, inputs, *batch, q, k_cache, v_cache, out, scratch, shared);
}

extern "C" __global__ void __launch_bounds__(MERGE_THREADS, 4)
    merge_attention(const AttentionArgs args, const uint *inputs, const Batch *batch, const float *scratch,
                    float *out) {
    merge_attention<ATTENTION_V_DIM>(args, inputs, *batch, scratch, out);
}
