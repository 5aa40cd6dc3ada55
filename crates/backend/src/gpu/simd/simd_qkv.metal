// Queries, keys and values of generated rows in one launch, from the norm before their maps to the cache: a
// threadgroup makes one head of some rows and rotates and stores it, so that no launch has to wait for all.
//
// Limited by the bytes of weights where there are as many heads as cores keep busy; of small models there are fewer.
// A head's outputs are shared by eight SIMD-groups.
// What they write to device memory the threadgroup reads again, behind a barrier of its own, which is all that
// Metal orders without fences of device scope (the language's 3.2): so not attention's splits, which several
// threadgroups make, and which the launch behind them folds.
#include "simd_maps.h"

#include "rope_store.h"

// As `simd/qkv.rs` has it: a threadgroup is a block of the maps.
struct QkvArgs {
    SimdArgs maps;
    RopeStoreArgs rope;
    uint first_heads[3];  // of each map, as `rope_store_one` counts them
};

#define QKV_BUFFERS                                                                                       \
    device const float *q_norm [[buffer(13)]], device const float *k_norm [[buffer(14)]],                 \
        device const float *inv_freq [[buffer(15)]], device uchar *k_cache [[buffer(16)]],                \
        device uchar *v_cache [[buffer(17)]]

#define SIMD_QKV(NAME, FORMAT, OUTS, ROWS)                                                                \
    [[max_total_threads_per_threadgroup(256)]]                                                            \
    kernel void NAME(MAP_BUFFERS(QkvArgs, all), QKV_BUFFERS, BUILTINS) {                                  \
        constant SimdArgs &args = all.maps;                                                               \
        const uint end = inputs[args.maps.shape.end_at], first_row = group.y * ROWS;                      \
        if (first_row >= end) return;                                                                     \
        uint place = group.x;                                                                             \
        Map map = PICK_MAP(place);                                                                        \
        const uint of = group.x >= args.maps.block2 ? 2 : group.x >= args.maps.block1 ? 1 : 0;            \
        const uint head = all.first_heads[of] + place;                                                    \
        const bool is_value = head >= all.rope.n_heads + all.rope.n_kv_heads;                             \
        const uint dim = is_value ? all.rope.v_dim : all.rope.k_dim, n_simdgroups = group_size.x / 32;    \
        map.end = (place + 1) * dim;                                                                      \
        for (uint out = simdgroup * OUTS; out < dim; out += n_simdgroups * OUTS) {                        \
            map_plain_rows<FORMAT, OUTS, ROWS>(args, inputs, x, norm, map, place * dim + out, first_row,  \
                                               lane);                                                     \
        }                                                                                                 \
        threadgroup_barrier(mem_flags::mem_device);                                                       \
        for (uint row = first_row + simdgroup; row < min(first_row + ROWS, end); row += n_simdgroups) {   \
            /* The map's results stand for whichever of q, k and v they are: by another argument they    \
               would be memory that the compiler may take for different. */                              \
            rope_store_one(all.rope, inputs, map.out, map.out, map.out, q_norm, k_norm, inv_freq, k_cache, \
                           v_cache, head, row, lane);                                                     \
        }                                                                                                 \
    }

// As `simd/mod.rs` has them.
#define SIMD_QKV_OF(OP, FORMAT, NAME)     \
    SIMD_QKV(OP##_##NAME##_1, FORMAT, 4, 1) \
    SIMD_QKV(OP##_##NAME##_4, FORMAT, 4, 4) \
    SIMD_QKV(OP##_##NAME##_8, FORMAT, 2, 8)

WEIGHT_FORMATS(SIMD_QKV_OF, simd_qkv)
