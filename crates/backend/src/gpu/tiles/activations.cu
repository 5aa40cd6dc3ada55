// Activations for the kernels over tiles, with and without a norm before.
#include "row.h"

#define CONVERSION(NAME, CONVERT, OUT, SIZE)                                                              \
    extern "C" __global__ void NAME(const TileShape args, const uint *inputs, const float *x, OUT *out) { \
        convert_row(args, inputs, x, 0, 0, CONVERT{out, args.SIZE});                                      \
    }                                                                                                     \
    extern "C" __global__ void __launch_bounds__(1024) norm_##NAME(const TileShape args, const uint *inputs, const float *x,      \
                                           const float *norm, OUT *out) {                                 \
        __shared__ float partial[MAX_SIMDGROUPS];                                                         \
        convert_row(args, inputs, x, norm, partial, CONVERT{out, args.SIZE});                             \
    }

CONVERSION(quantise_rows, Quantise, uchar, n_tiles)
CONVERSION(split_rows, Split<3>, uchar, n_tiles)
CONVERSION(round_generated_rows, Split<1>, uchar, n_tiles)
CONVERSION(round_rows, Round, ushort, x_rows)
