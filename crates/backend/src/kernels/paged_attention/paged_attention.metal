// Attention of prompts over pages, for each format a cache may have. Rows behind the generated ones are theirs.
#include "paged_attention.h"

#include "kv_pairs.h"

// Where the inputs have the number of generated rows.
#define GENERATED_AT 2

#define ATTENTION_KERNEL(NAME, K, V)                                                                    \
    kernel void paged_attention_##NAME(                                                                 \
        constant AttentionArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],            \
        device const float *q [[buffer(2)]], device const uchar *k_cache [[buffer(3)]],                 \
        device const uchar *v_cache [[buffer(4)]], device float *out [[buffer(5)]], BUILTINS) {         \
        threadgroup float maxima[ATTENTION_SIMDGROUPS];                                                 \
        threadgroup float sums[ATTENTION_SIMDGROUPS];                                                   \
        threadgroup float outs[ATTENTION_SIMDGROUPS * ATTENTION_MAX_DIM];                               \
        paged_attention<K, V>(args, inputs, q, k_cache, v_cache, out, maxima, sums, outs, group.x,      \
                              inputs[GENERATED_AT] + group.y, THREADS);                                 \
    }
KV_PAIRS(ATTENTION_KERNEL)
