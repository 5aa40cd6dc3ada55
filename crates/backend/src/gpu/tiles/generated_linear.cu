// Up to three linear maps of the same rows, for every packing and 8 to 64 rows a block.
#include "generated_linear.h"
#include "packings.h"

#define GENERATED_KERNEL(NAME, TILE, ROW_TILES, ADD)                                                         \
    extern "C" __global__ void __launch_bounds__(256) NAME(                                                  \
        const TileArgs args, const uint *inputs, const uchar *x, const uchar *weight0, const float *bias0,   \
        float *out0, const uchar *weight1, const float *bias1, float *out1, const uchar *weight2,            \
        const float *bias2, float *out2) {                                                                   \
        __shared__ float sums[PARTS * SUMS(ROW_TILES)];                                                      \
        uint band = blockIdx.x;                                                                              \
        Output output = {weight0, bias0, out0, args.cols0, args.has_bias & 1};                               \
        if (band >= args.band2) {                                                                            \
            band -= args.band2;                                                                              \
            output = Output{weight2, bias2, out2, args.cols2, args.has_bias & 4};                            \
        } else if (band >= args.band1) {                                                                     \
            band -= args.band1;                                                                              \
            output = Output{weight1, bias1, out1, args.cols1, args.has_bias & 2};                            \
        }                                                                                                    \
        generated_linear<TILE, ROW_TILES, ADD>(args, inputs, x, output, band, sums);                         \
    }

#define GENERATED_KERNELS_OF(OP, TILE, NAME)                      \
    GENERATED_KERNEL(OP##_##NAME##_store_8, TILE, 1, false)       \
    GENERATED_KERNEL(OP##_##NAME##_store_16, TILE, 2, false)      \
    GENERATED_KERNEL(OP##_##NAME##_store_32, TILE, 4, false)      \
    GENERATED_KERNEL(OP##_##NAME##_store_64, TILE, 8, false)      \
    GENERATED_KERNEL(OP##_##NAME##_add_8, TILE, 1, true)          \
    GENERATED_KERNEL(OP##_##NAME##_add_16, TILE, 2, true)         \
    GENERATED_KERNEL(OP##_##NAME##_add_32, TILE, 4, true)         \
    GENERATED_KERNEL(OP##_##NAME##_add_64, TILE, 8, true)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GENERATED_KERNELS_OF, generated_linear)
