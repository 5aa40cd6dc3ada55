// Up to three linear maps of the same generated rows in bfloat16, for every packing and 8 to 64 rows a block.
#include "packings.h"
#include "rounded.h"

#define ROUNDED_KERNEL(NAME, PACKING, TOKENS, ADD)                                                                      \
    extern "C" __global__ void ROUNDED_BOUNDS                                                                           \
        NAME(const TileArgs args, const uint *inputs, const ushort *x, MAP_PARAMETERS, float *partial, uint *arrived) { \
        MAP_OUTPUTS                                                                                                     \
        ROUNDED_BODY((rounded_linear<fragments::PACKING, TOKENS, ADD>(args, inputs, x, outputs, partial, arrived)));    \
    }

#define ROUNDED_PAIR(OP, PACKING, NAME, TOKENS)                          \
    ROUNDED_KERNEL(OP##_##NAME##_store_##TOKENS, PACKING, TOKENS, false) \
    ROUNDED_KERNEL(OP##_##NAME##_add_##TOKENS, PACKING, TOKENS, true)

#define ROUNDED_KERNELS_OF(OP, PACKING, NAME) OF_ROWS(ROUNDED_TOKENS, ROUNDED_PAIR, OP, PACKING, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(ROUNDED_KERNELS_OF, rounded_linear)
