// Gate and up projections with the gated activation, for every packing and 1 to 64 rows a block.
#include "few_rows.h"
#include "many_rows.h"
#include "packings.h"

#define FEW_BODY(TILE, SINGLE, INPUT)                 \
    typedef FewRows<TILE, SINGLE> F;                  \
    const GatedWeights<F> weights = {args, gate, up}; \
    const WriteGated<F> write(args, out);             \
    multiply_few<F>(inputs, args.shape, INPUT, weights, write);

// Several blocks must find room on a multiprocessor for weights to keep coming.
#define ONE_KERNEL(NAME, TILE)                                                            \
    extern "C" __global__ void __launch_bounds__(512, 2)                                  \
        NAME(const GatedArgs args, const uint *inputs, const float *x, const float *norm, \
             const uchar *gate, const uchar *up, uchar *out) {                            \
        FEW_BODY(TILE, true, (PlainRow<F>{x, norm}))                                      \
    }
#define FEW_KERNEL(NAME, TILE)                                                                             \
    extern "C" __global__ void __launch_bounds__(512)                                                      \
        NAME(const GatedArgs args, const uint *inputs, const uchar *x, const uchar *gate, const uchar *up, \
             uchar *out) {                                                                                 \
        FEW_BODY(TILE, false, ConvertedRows<F>{x})                                                         \
    }
#define MANY_KERNEL(NAME, TILE, ROWS)                                                                      \
    extern "C" __global__ void __launch_bounds__(512)                                                      \
        NAME(const GatedArgs args, const uint *inputs, const uchar *x, const uchar *gate, const uchar *up, \
             float *out) {                                                                                 \
        gated_many<ManyRows<TILE, ROWS, MANY_BANDS(TILE) / 2> >(args, inputs, x, gate, up, out);                              \
    }

#define GATED_KERNELS_1(OP, TILE, NAME) ONE_KERNEL(OP##_##NAME##_1, TILE_OF(TILE))
#define GATED_KERNELS_8(OP, TILE, NAME) FEW_KERNEL(OP##_##NAME##_8, TILE_OF(TILE))
#define GATED_KERNELS_16(OP, TILE, NAME) MANY_KERNEL(OP##_##NAME##_16, TILE_OF(TILE), 16)
#define GATED_KERNELS_32(OP, TILE, NAME) MANY_KERNEL(OP##_##NAME##_32, TILE_OF(TILE), 32)
#define GATED_KERNELS_64(OP, TILE, NAME) MANY_KERNEL(OP##_##NAME##_64, TILE_OF(TILE), 64)

#define GATED_KERNELS(OP, TILE, NAME, ROWS) GATED_KERNELS_##ROWS(OP, TILE, NAME)
#define GATED_KERNELS_OF(OP, TILE, NAME) OF_ROWS(GENERATED_ROWS, GATED_KERNELS, OP, TILE, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GATED_KERNELS_OF, generated_gated)
