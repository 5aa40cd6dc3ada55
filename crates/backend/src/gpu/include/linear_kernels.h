// Entry points of a linear map `OP<Format, OUTS, ROWS>(args, inputs, weight, bias, x,
// out, group_x, group_y, threads)` for every weight format that is read as it is, on CUDA.
#ifndef QUARREL_LINEAR_KERNELS_H
#define QUARREL_LINEAR_KERNELS_H

#include "linear.h"

#define LINEAR_KERNEL(NAME, OP, FORMAT, OUTS, ROWS)                                                             \
    extern "C" __global__ void NAME(const LinearArgs args, const uint *inputs, const uchar *weight,       \
                                    const float *bias, const float *x, float *out) {                      \
        OP<FORMAT, OUTS, ROWS>(args, inputs, weight, bias, x, out, blockIdx.x, blockIdx.y, threads());          \
    }

// One instance for a single row, one for up to eight.
#define LINEAR_KERNELS_OF(OP, FORMAT, NAME)          \
    LINEAR_KERNEL(OP##_##NAME##_1, OP, FORMAT, 2, 1) \
    LINEAR_KERNEL(OP##_##NAME##_8, OP, FORMAT, 4, 8)

#define LINEAR_KERNELS(OP) WEIGHT_FORMATS(LINEAR_KERNELS_OF, OP)

#endif
