// Attention of prompt rows, for each format a cache may have.
#include "matrix_attention.h"

#include "kv_pairs.h"

#define MATRIX_KERNEL(NAME, K, V)                                                                         \
    [[max_total_threads_per_threadgroup(256)]]                                                            \
    kernel void matrix_attention_##NAME(                                                                  \
        constant AttentionArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],              \
        device const float *q [[buffer(2)]], device const uchar *k_cache [[buffer(3)]],                   \
        device const uchar *v_cache [[buffer(4)]], device float *out [[buffer(5)]], BUILTINS) {           \
        threadgroup AttentionMemory memory;                                                               \
        const Queries queries = find_queries(args, inputs, group.x);                                      \
        if (queries.n_rows == 0) return;                                                                  \
        attend_rows<K, V>(args, queries, q, k_cache, v_cache, out, memory, THREADS);                      \
    }
KV_PAIRS(MATRIX_KERNEL)
