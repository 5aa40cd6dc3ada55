// Rows of the embedding table, for every weight format the GPUs read.
#include "embed.h"

#define EMBED_KERNEL(NAME, FORMAT)                                                                        \
    kernel void NAME(constant EmbedArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],     \
                     device const uchar *table [[buffer(2)]], device float *out [[buffer(3)]],            \
                     BUILTINS) {                                                                          \
        embed_row<FORMAT>(args, inputs, table, out, group.y, THREADS);                                    \
    }

EMBED_KERNEL(embed_f32, F32)
EMBED_KERNEL(embed_f16, F16)
EMBED_KERNEL(embed_bf16, BF16)
EMBED_KERNEL(embed_q4_0, Q4_0)
EMBED_KERNEL(embed_q4_1, Q4_1)
EMBED_KERNEL(embed_q8_0, Q8_0)
