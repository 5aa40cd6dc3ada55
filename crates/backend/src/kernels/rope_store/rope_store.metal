// QK-norm, rotary embedding, K and V to their pages: one SIMD-group a head.
#include "rope_store.h"

// Rows from FIRST on.
#define ROPE_STORE(NAME, FIRST)                                                                           \
    kernel void NAME(constant RopeStoreArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]], \
                     device float *q [[buffer(2)]], device float *k [[buffer(3)]],                        \
                     device const float *v [[buffer(4)]], device const float *q_norm [[buffer(5)]],       \
                     device const float *k_norm [[buffer(6)]], device const float *inv_freq [[buffer(7)]],\
                     device uchar *k_cache [[buffer(8)]], device uchar *v_cache [[buffer(9)]], BUILTINS) {\
        const uint head = group.x * (group_size.x / 32) + simdgroup, row = FIRST + group.y;               \
        if (row >= inputs[args.n_rows_at] || head >= args.n_heads + 2 * args.n_kv_heads) return;          \
        rope_store_one(args, inputs, q, k, v, q_norm, k_norm, inv_freq, k_cache, v_cache, head, row, lane);\
    }

ROPE_STORE(rope_store, 0)
ROPE_STORE(rope_store_prompts, inputs[GENERATED_AT])
