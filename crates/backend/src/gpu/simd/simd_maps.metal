// Up to three linear maps of the same rows in one launch, the RMSNorm before them included.
#include "simd_maps.h"

#define SIMD_MAPS(NAME, FORMAT, OUTS, ROWS)                                                               \
    kernel void NAME(MAP_BUFFERS(SimdArgs, args), BUILTINS) {                                             \
        uint group_x = group.x;                                                                           \
        const Map map = PICK_MAP(group_x);                                                                \
        const uint first_out = (group_x * (group_size.x / 32) + simdgroup) * OUTS;                        \
        map_plain_rows<FORMAT, OUTS, ROWS>(args, inputs, x, norm, map, first_out, group.y * ROWS, lane);  \
    }

// As `simd/mod.rs` has them.
#define SIMD_MAPS_OF(OP, FORMAT, NAME)     \
    SIMD_MAPS(OP##_##NAME##_1, FORMAT, 4, 1) \
    SIMD_MAPS(OP##_##NAME##_4, FORMAT, 4, 4) \
    SIMD_MAPS(OP##_##NAME##_8, FORMAT, 2, 8)

WEIGHT_FORMATS(SIMD_MAPS_OF, simd_maps)
