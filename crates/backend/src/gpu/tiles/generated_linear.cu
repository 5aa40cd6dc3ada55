// Up to three linear maps of the same rows, for every packing and 1 to 64 rows a block.
#include "few_rows.h"
#include "many_rows.h"
#include "packings.h"

#define FEW_KERNEL(NAME, TILE, SINGLE, ADD)                                                               \
    extern "C" __global__ void __launch_bounds__(256) NAME(MAP_PARAMETERS(uchar)) {                       \
        MAP_OUTPUTS                                                                                       \
        typedef FewRows<TILE, SINGLE> F;                                                                  \
        const MapWeights<F> weights = {args, outputs};                                                    \
        const WriteMap<F, ADD> write = {args, outputs};                                                   \
        multiply_few<F>(inputs, args.first_at, args.end_at, args.n_tiles, x, weights, args.n_blocks, write); \
    }
#define MANY_KERNEL(NAME, TILE, ROWS, ADD)                                                                \
    extern "C" __global__ void __launch_bounds__(256) NAME(MAP_PARAMETERS(uchar)) {                       \
        MAP_OUTPUTS                                                                                       \
        map_many<ManyRows<TILE, ROWS, 4>, ADD>(args, inputs, x, outputs);                                 \
    }

#define MAP_KERNELS(NAME, TILE, ADD)    \
    FEW_KERNEL(NAME##_1, TILE, true, ADD)   \
    FEW_KERNEL(NAME##_8, TILE, false, ADD)  \
    MANY_KERNEL(NAME##_16, TILE, 16, ADD)   \
    MANY_KERNEL(NAME##_32, TILE, 32, ADD)   \
    MANY_KERNEL(NAME##_64, TILE, 64, ADD)

#define GENERATED_KERNELS_OF(OP, TILE, NAME)     \
    MAP_KERNELS(OP##_##NAME##_store, TILE, false) \
    MAP_KERNELS(OP##_##NAME##_add, TILE, true)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(GENERATED_KERNELS_OF, generated_linear)
