// Gate and up projections with the gated activation, for every packing and 1 to 64 rows a block.
#include "generated_linear.h"
#include "packings.h"

#define GATED_KERNEL(NAME, TILE, ROWS, BANDS)                                                              \
    extern "C" __global__ void __launch_bounds__(512)                                                      \
        NAME(const GatedArgs args, const uint *inputs, const uchar *x, const uchar *gate, const uchar *up, \
             float *out) {                                                                                 \
        extern __shared__ __align__(128) uchar memory[];                                                   \
        generated_gated<Sizes<TILE, ROWS, BANDS> >(args, inputs, x, gate, up, out, memory);          \
    }

#define GATED_KERNELS_OF(OP, TILE, NAME)        \
    GATED_KERNEL(OP##_##NAME##_1, TILE, 1, 1)   \
    GATED_KERNEL(OP##_##NAME##_8, TILE, 8, 1)   \
    GATED_KERNEL(OP##_##NAME##_16, TILE, 16, 2) \
    GATED_KERNEL(OP##_##NAME##_32, TILE, 32, 2) \
    GATED_KERNEL(OP##_##NAME##_64, TILE, 64, 2)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GATED_KERNELS_OF, generated_gated)
