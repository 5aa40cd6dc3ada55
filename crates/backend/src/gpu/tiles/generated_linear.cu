// Up to three linear maps of the same rows, for every packing and 1 to 64 rows a block.
#include "few_rows.h"
#include "many_rows.h"
#include "packings.h"

#define FEW_BODY(TILE, SINGLE, ADD, INPUT)          \
    MAP_OUTPUTS                                     \
    typedef FewRows<TILE, SINGLE> F;                \
    const MapWeights<F> weights = {args, outputs};  \
    const WriteMap<F, ADD> write(args, outputs);    \
    multiply_few<F>(inputs, args.shape, INPUT, weights, write);

// Several blocks must find room on a multiprocessor for weights to keep coming.
#define ONE_KERNEL(NAME, TILE, ADD)                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 4) NAME(const TileArgs args, const uint *inputs,          \
                                                           const float *x, const float *norm, MAP_PARAMETERS) { \
        FEW_BODY(TILE, true, ADD, (PlainRow<F>{x, norm}))                                                       \
    }
#define CONVERTED_KERNEL(NAME, TILE, ADD)                                               \
    extern "C" __global__ void __launch_bounds__(256, 4)                                \
        NAME(const TileArgs args, const uint *inputs, const uchar *x, MAP_PARAMETERS) { \
        FEW_BODY(TILE, true, ADD, ConvertedRows<F>{x})                                   \
    }
#define FEW_KERNEL(NAME, TILE, ADD)                                                     \
    extern "C" __global__ void __launch_bounds__(512)                                   \
        NAME(const TileArgs args, const uint *inputs, const uchar *x, MAP_PARAMETERS) { \
        FEW_BODY(TILE, false, ADD, ConvertedRows<F>{x})                                 \
    }
#define MANY_KERNEL(NAME, TILE, ROWS, ADD)                                              \
    extern "C" __global__ void __launch_bounds__(256)                                   \
        NAME(const TileArgs args, const uint *inputs, const uchar *x, MAP_PARAMETERS) { \
        MAP_OUTPUTS                                                                     \
        map_many<ManyRows<TILE, ROWS, MANY_BANDS(TILE)>, ADD>(args, inputs, x, outputs);               \
    }

#define MAP_KERNELS_1(NAME, TILE, ADD) ONE_KERNEL(NAME##_1, TILE, ADD) CONVERTED_KERNEL(NAME##_1c, TILE, ADD)
#define MAP_KERNELS_8(NAME, TILE, ADD) FEW_KERNEL(NAME##_8, TILE, ADD)
#define MAP_KERNELS_16(NAME, TILE, ADD) MANY_KERNEL(NAME##_16, TILE, 16, ADD)
#define MAP_KERNELS_32(NAME, TILE, ADD) MANY_KERNEL(NAME##_32, TILE, 32, ADD)
#define MAP_KERNELS_64(NAME, TILE, ADD) MANY_KERNEL(NAME##_64, TILE, 64, ADD)

#define MAP_PAIR(OP, TILE, NAME, ROWS)                            \
    MAP_KERNELS_##ROWS(OP##_##NAME##_store, TILE_OF(TILE), false) \
    MAP_KERNELS_##ROWS(OP##_##NAME##_add, TILE_OF(TILE), true)

#define GENERATED_KERNELS_OF(OP, TILE, NAME) OF_ROWS(GENERATED_ROWS, MAP_PAIR, OP, TILE, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GENERATED_KERNELS_OF, generated_linear)
