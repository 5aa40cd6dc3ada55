// QK-norm, rotary embedding, K and V to their pages: one warp a head. What needs nothing of the maps before is done
// before waiting for them.
#include "known_turns.h"

// Rows from FIRST on.
#define ROPE_STORE(NAME, FIRST)                                                                           \
    extern "C" __global__ void NAME(const RopeStoreArgs all, const uint *inputs, float *q, float *k,      \
                                    const float *v, const float *q_norm, const float *k_norm,             \
                                    const float *inv_freq, uchar *k_cache, uchar *v_cache) {              \
        __shared__ Turn known[MAX_PAIRS];                                                                 \
        const RopeStoreArgs args = known_rope(all);                                                       \
        const uint head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, row = FIRST + blockIdx.y;    \
        know_turns(known, turns_of(args, inputs, inv_freq, row), args.n_pairs);                           \
        const uint slot = inputs[args.slots_at + row];                                                    \
        const bool exists = row < inputs[args.n_rows_at] && head < args.n_heads + 2 * args.n_kv_heads;    \
        group_barrier();                                                                                  \
        wait_for_inputs();                                                                                \
        allow_next();                                                                                     \
        const KnownTurns turns = {known};                                                                 \
        if (!exists) return;                                                                              \
        rope_store_turned(args, turns, slot, q, k, v, q_norm, k_norm, k_cache, v_cache, head, row,        \
                          threadIdx.x % 32);                                                              \
    }

ROPE_STORE(rope_store, 0)
ROPE_STORE(rope_store_prompts, inputs[GENERATED_AT])
