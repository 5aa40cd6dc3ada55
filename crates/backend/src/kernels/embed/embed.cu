// Rows of the embedding table, for every weight format the GPUs read.
#include "embed.h"

#define EMBED_KERNEL(OP, FORMAT, NAME)                                                                        \
    extern "C" __global__ void OP##_##NAME(const EmbedArgs args, const uint *inputs, const uchar *table,         \
                                    float *out) {                                                         \
        embed_row<FORMAT>(args, inputs, table, out, blockIdx.y, threads());                               \
    }

WEIGHT_FORMATS(EMBED_KERNEL, embed)
