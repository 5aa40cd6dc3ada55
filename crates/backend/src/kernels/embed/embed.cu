// Rows of the embedding table, for every weight format the GPUs read.
#include "embed.h"

#define EMBED_KERNEL(NAME, FORMAT)                                                                        \
    extern "C" __global__ void NAME(const EmbedArgs args, const uint *inputs, const uchar *table,         \
                                    float *out) {                                                         \
        embed_row<FORMAT>(args, inputs, table, out, blockIdx.y, threads());                               \
    }

EMBED_KERNEL(embed_f32, F32)
EMBED_KERNEL(embed_f16, F16)
EMBED_KERNEL(embed_bf16, BF16)
EMBED_KERNEL(embed_q4_0, Q4_0)
EMBED_KERNEL(embed_q4_1, Q4_1)
EMBED_KERNEL(embed_q8_0, Q8_0)
