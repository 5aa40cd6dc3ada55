// Attention over pages, for each format a cache may have.
#include "paged_attention.h"

#define ATTENTION_KERNEL(NAME, KV)                                                                        \
    extern "C" __global__ void NAME(const AttentionArgs args, const uint *inputs, const float *q,         \
                                    const uchar *k_cache, const uchar *v_cache, float *out) {             \
        __shared__ float maxima[ATTENTION_SIMDGROUPS], sums[ATTENTION_SIMDGROUPS];                        \
        __shared__ float outs[ATTENTION_SIMDGROUPS * ATTENTION_MAX_DIM];                                  \
        paged_attention<KV>(args, inputs, q, k_cache, v_cache, out, maxima, sums, outs, blockIdx.x,       \
                            blockIdx.y, threads());                                                       \
    }

ATTENTION_KERNEL(paged_attention_f32, KvF32)
ATTENTION_KERNEL(paged_attention_f16, KvF16)
ATTENTION_KERNEL(paged_attention_bf16, KvBF16)
