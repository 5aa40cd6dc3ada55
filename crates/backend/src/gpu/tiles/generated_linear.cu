// Up to three linear maps of the same rows, for every packing and 1 to 64 rows a block.
#include "generated_linear.h"
#include "packings.h"

#define GENERATED_KERNEL(NAME, TILE, ROWS, BANDS, ADD)                                                       \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                  \
        const TileArgs args, const uint *inputs, const uchar *x, const uchar *weight0, const float *bias0,   \
        float *out0, const uchar *weight1, const float *bias1, float *out1, const uchar *weight2,            \
        const float *bias2, float *out2) {                                                                   \
        extern __shared__ __align__(128) uchar memory[];                                                     \
        uint block = blockIdx.x;                                                                             \
        Output output = {weight0, bias0, out0, args.cols0, args.has_bias & 1};                               \
        if (block >= args.block2) {                                                                          \
            block -= args.block2;                                                                            \
            output = Output{weight2, bias2, out2, args.cols2, args.has_bias & 4};                            \
        } else if (block >= args.block1) {                                                                   \
            block -= args.block1;                                                                            \
            output = Output{weight1, bias1, out1, args.cols1, args.has_bias & 2};                            \
        }                                                                                                    \
        generated_linear<Sizes<TILE, ROWS, BANDS>, ADD>(args, inputs, x, output, block * BANDS, memory); \
    }

#define GENERATED_KERNELS_OF(OP, TILE, NAME)                      \
    GENERATED_KERNEL(OP##_##NAME##_store_1, TILE, 1, 1, false)    \
    GENERATED_KERNEL(OP##_##NAME##_store_8, TILE, 8, 1, false)    \
    GENERATED_KERNEL(OP##_##NAME##_store_16, TILE, 16, 4, false)  \
    GENERATED_KERNEL(OP##_##NAME##_store_32, TILE, 32, 4, false)  \
    GENERATED_KERNEL(OP##_##NAME##_store_64, TILE, 64, 4, false)  \
    GENERATED_KERNEL(OP##_##NAME##_add_1, TILE, 1, 1, true)       \
    GENERATED_KERNEL(OP##_##NAME##_add_8, TILE, 8, 1, true)       \
    GENERATED_KERNEL(OP##_##NAME##_add_16, TILE, 16, 4, true)     \
    GENERATED_KERNEL(OP##_##NAME##_add_32, TILE, 32, 4, true)     \
    GENERATED_KERNEL(OP##_##NAME##_add_64, TILE, 64, 4, true)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GENERATED_KERNELS_OF, generated_linear)
