// Attention over pages, for each format a cache may have.
#include "paged_attention.h"

#include "kv_pairs.h"

#define ATTENTION_KERNEL(NAME, K, V)                                                                    \
    extern "C" __global__ void paged_attention_##NAME(                                                  \
        const AttentionArgs args, const uint *inputs, const float *q, const uchar *k_cache,             \
        const uchar *v_cache, float *out) {                                                             \
        __shared__ float maxima[ATTENTION_SIMDGROUPS], sums[ATTENTION_SIMDGROUPS];                      \
        __shared__ float outs[ATTENTION_SIMDGROUPS * ATTENTION_MAX_DIM];                                \
        paged_attention<K, V>(args, inputs, q, k_cache, v_cache, out, maxima, sums, outs, blockIdx.x,   \
                              blockIdx.y, threads());                                                   \
    }
KV_PAIRS(ATTENTION_KERNEL)
