// Up to three linear maps of the same rows, for every packing and 1 to 64 rows a block.
#include "generated_linear.h"
#include "packings.h"

#define GENERATED_KERNEL(NAME, TILE, ROWS, BANDS, ADD)                                           \
    extern "C" __global__ void __launch_bounds__(256) NAME(MAP_PARAMS(uchar)) {                  \
        extern __shared__ __align__(128) uchar memory[];                                         \
        uint block = blockIdx.x;                                                                 \
        const Map map = map_of(args, block, MAPS);                                               \
        generated_linear<Sizes<TILE, ROWS, BANDS>, ADD>(args, inputs, x, map, block * BANDS, memory); \
    }

#define GENERATED_KERNELS_OF(OP, TILE, NAME)                      \
    GENERATED_KERNEL(OP##_##NAME##_store_1, TILE, 1, 1, false)    \
    GENERATED_KERNEL(OP##_##NAME##_store_8, TILE, 8, 1, false)    \
    GENERATED_KERNEL(OP##_##NAME##_store_16, TILE, 16, 4, false)  \
    GENERATED_KERNEL(OP##_##NAME##_store_32, TILE, 32, 4, false)  \
    GENERATED_KERNEL(OP##_##NAME##_store_64, TILE, 64, 4, false)  \
    GENERATED_KERNEL(OP##_##NAME##_add_1, TILE, 1, 1, true)       \
    GENERATED_KERNEL(OP##_##NAME##_add_8, TILE, 8, 1, true)       \
    GENERATED_KERNEL(OP##_##NAME##_add_16, TILE, 16, 4, true)     \
    GENERATED_KERNEL(OP##_##NAME##_add_32, TILE, 32, 4, true)     \
    GENERATED_KERNEL(OP##_##NAME##_add_64, TILE, 64, 4, true)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GENERATED_KERNELS_OF, generated_linear)
