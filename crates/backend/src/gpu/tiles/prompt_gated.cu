// Gate and up projections of prompt rows with the gated activation, for every packing and 64 to
// 256 rows a block. Results are bfloat16, as the map that follows takes them.
#include "packings.h"
#include "prompt_linear.h"

#define GATED_KERNEL(OP, PACKING, NAME, TOKENS)                                                              \
    extern "C" __global__ void PROMPT_BOUNDS(TOKENS)                                                         \
        OP##_##NAME##_##TOKENS(const GatedArgs args, const uint *inputs, const ushort *x, const uchar *gate, \
                               const uchar *up, ushort *out) {                                               \
        PROMPT_BODY((prompt_gated<fragments::PACKING, TOKENS>(args, inputs, x, gate, up, out)));                        \
    }

#define GATED_KERNELS_OF(OP, PACKING, NAME) OF_ROWS(PROMPT_TOKENS, GATED_KERNEL, OP, PACKING, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GATED_KERNELS_OF, prompt_gated)
