// QK-norm, rotary embedding, K and V to their pages: one warp a head.
#include "cuda.h"
#include "rope_store.h"

// Rows from FIRST on.
#define ROPE_STORE(NAME, FIRST)                                                                           \
    extern "C" __global__ void NAME(const RopeStoreArgs args, const uint *inputs, float *q, float *k,     \
                                    const float *v, const float *q_norm, const float *k_norm,             \
                                    const float *inv_freq, uchar *k_cache, uchar *v_cache) {              \
        wait_for_inputs();                                                                                \
        allow_next();                                                                                     \
        rope_store_head(args, inputs, q, k, v, q_norm, k_norm, inv_freq, k_cache, v_cache, blockIdx.x,    \
                        FIRST + blockIdx.y, threads());                                                   \
    }

ROPE_STORE(rope_store, 0)
ROPE_STORE(rope_store_prompts, inputs[GENERATED_AT])
