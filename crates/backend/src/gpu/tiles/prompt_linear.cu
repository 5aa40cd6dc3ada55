// Up to three linear maps of the same prompt rows, for every packing and 64 to 256 rows a block.
#include "packings.h"
#include "prompt_linear.h"

#define PROMPT_KERNEL(NAME, PACKING, TOKENS, ADD)                                        \
    extern "C" __global__ void PROMPT_BOUNDS(TOKENS)                                     \
        NAME(const TileArgs args, const uint *inputs, const ushort *x, MAP_PARAMETERS) { \
        MAP_OUTPUTS                                                                      \
        PROMPT_BODY((prompt_linear<fragments::PACKING, TOKENS, ADD>(args, inputs, x, outputs)));    \
    }

#define PROMPT_PAIR(OP, PACKING, NAME, TOKENS)                          \
    PROMPT_KERNEL(OP##_##NAME##_store_##TOKENS, PACKING, TOKENS, false) \
    PROMPT_KERNEL(OP##_##NAME##_add_##TOKENS, PACKING, TOKENS, true)

#define PROMPT_KERNELS_OF(OP, PACKING, NAME) OF_ROWS(PROMPT_TOKENS, PROMPT_PAIR, OP, PACKING, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(PROMPT_KERNELS_OF, prompt_linear)
