// Gate and up projections with the gated activation, for every packing and 8 to 32 rows a block.
#include "generated_linear.h"
#include "packings.h"

#define GATED_KERNEL(NAME, TILE, ROW_TILES)                                                              \
    extern "C" __global__ void __launch_bounds__(512)                                                    \
        NAME(const GatedArgs args, const uint *inputs, const uchar *x, const uchar *gate, const uchar *up, \
             float *out) {                                                                               \
        extern __shared__ float sums[];                                                                  \
        generated_gated<TILE, ROW_TILES>(args, inputs, x, gate, up, out, sums);                          \
    }

#define GATED_KERNELS_OF(OP, TILE, NAME)         \
    GATED_KERNEL(OP##_##NAME##_8, TILE, 1)       \
    GATED_KERNEL(OP##_##NAME##_16, TILE, 2)      \
    GATED_KERNEL(OP##_##NAME##_32, TILE, 4)      \
    GATED_KERNEL(OP##_##NAME##_64, TILE, 8)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GATED_KERNELS_OF, generated_gated)
