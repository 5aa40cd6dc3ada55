// Attention of generated rows, for each format a cache may have.
#include "split_attention.h"

#include "kv_pairs.h"

#define SPLIT_KERNEL(NAME, K, V)                                                                          \
    kernel void split_attention_##NAME(                                                                   \
        constant AttentionArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],              \
        device const Batch *batch [[buffer(2)]], device const float *q [[buffer(3)]],                     \
        device const uchar *k_cache [[buffer(4)]], device const uchar *v_cache [[buffer(5)]],             \
        device float *out [[buffer(6)]], device float *scratch [[buffer(7)]], BUILTINS) {                 \
        threadgroup SplitMemory memory;                                                                   \
        const uint n_groups = min(args.max_items * args.n_kv_heads, uint(SPLIT_GROUPS));                  \
        for (uint i = group.x; i < batch->n_items * args.n_kv_heads; i += n_groups) {                     \
            const Work work = find_work(args, inputs, batch, i, THREADS);                                 \
            attend_split<K, V>(args, work, q, k_cache, v_cache, out, scratch, memory, THREADS);           \
        }                                                                                                 \
    }
KV_PAIRS(SPLIT_KERNEL)

kernel void merge_splits(constant AttentionArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                         device const Batch *batch [[buffer(2)]], device const float *scratch [[buffer(3)]],
                         device float *out [[buffer(4)]], BUILTINS) {
    fold_splits(args, inputs, batch, scratch, out, group.x, group.y, THREADS);
}
