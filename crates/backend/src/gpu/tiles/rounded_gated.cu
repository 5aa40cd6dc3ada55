// Gate and up projections of generated rows in bfloat16 with the gated activation, for every packing
// and 8 to 64 rows a block. Results are bfloat16, as the map that follows takes them.
#include "packings.h"
#include "rounded.h"

#define GATED_KERNEL(OP, PACKING, NAME, TOKENS)                                                                      \
    extern "C" __global__ void ROUNDED_BOUNDS                                                                        \
        OP##_##NAME##_##TOKENS(const GatedArgs args, const uint *inputs, const ushort *x, const uchar *gate,         \
                               const uchar *up, ushort *out, float *partial, uint *arrived) {                        \
        ROUNDED_BODY((rounded_gated<fragments::PACKING, TOKENS>(args, inputs, x, gate, up, out, partial, arrived))); \
    }

#define GATED_KERNELS_OF(OP, PACKING, NAME) OF_ROWS(ROUNDED_TOKENS, GATED_KERNEL, OP, PACKING, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GATED_KERNELS_OF, rounded_gated)
