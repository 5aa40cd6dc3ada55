// Rows of the embedding table, for every weight format the GPUs read.
#include "embed.h"

#define EMBED_KERNEL(OP, FORMAT, NAME)                                                                        \
    kernel void OP##_##NAME(constant EmbedArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],     \
                     device const uchar *table [[buffer(2)]], device float *out [[buffer(3)]],            \
                     BUILTINS) {                                                                          \
        embed_row<FORMAT>(args, inputs, table, out, group.y, THREADS);                                    \
    }

WEIGHT_FORMATS(EMBED_KERNEL, embed)
