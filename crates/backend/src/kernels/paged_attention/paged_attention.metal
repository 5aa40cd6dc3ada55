// Attention over pages, for each format a cache may have.
#include "paged_attention.h"

#define ATTENTION_KERNEL(NAME, KV)                                                                        \
    kernel void NAME(constant AttentionArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]], \
                     device const float *q [[buffer(2)]], device const uchar *k_cache [[buffer(3)]],      \
                     device const uchar *v_cache [[buffer(4)]], device float *out [[buffer(5)]],          \
                     BUILTINS) {                                                                          \
        threadgroup float maxima[ATTENTION_SIMDGROUPS];                                                   \
        threadgroup float sums[ATTENTION_SIMDGROUPS];                                                     \
        threadgroup float outs[ATTENTION_SIMDGROUPS * ATTENTION_MAX_DIM];                                 \
        paged_attention<KV>(args, inputs, q, k_cache, v_cache, out, maxima, sums, outs, group.x, group.y, \
                            THREADS);                                                                     \
    }

ATTENTION_KERNEL(paged_attention_f32, KvF32)
ATTENTION_KERNEL(paged_attention_f16, KvF16)
ATTENTION_KERNEL(paged_attention_bf16, KvBF16)
