// Entry points of a linear map `OP<Format, OUTS, ROWS>(args, inputs, weight, bias, x,
// out, group_x, group_y, threads)` for every weight format the GPUs read.
#ifndef QUARREL_LINEAR_KERNELS_H
#define QUARREL_LINEAR_KERNELS_H

#include "linear.h"

#if defined(__CUDACC__)
#define LINEAR_KERNEL(NAME, OP, FORMAT, OUTS, ROWS)                                                             \
    extern "C" __global__ void NAME(const LinearArgs args, const uint *inputs, const uchar *weight,       \
                                    const float *bias, const float *x, float *out) {                      \
        OP<FORMAT, OUTS, ROWS>(args, inputs, weight, bias, x, out, blockIdx.x, blockIdx.y, threads());          \
    }
#else
#define LINEAR_KERNEL(NAME, OP, FORMAT, OUTS, ROWS)                                                             \
    kernel void NAME(constant LinearArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],    \
                     device const uchar *weight [[buffer(2)]], device const float *bias [[buffer(3)]],    \
                     device const float *x [[buffer(4)]], device float *out [[buffer(5)]], BUILTINS) {    \
        OP<FORMAT, OUTS, ROWS>(args, inputs, weight, bias, x, out, group.x, group.y, THREADS);                  \
    }
#endif

// One instance for a single row, one for up to eight.
#define LINEAR_KERNELS_OF(OP, FORMAT, NAME)          \
    LINEAR_KERNEL(OP##_##NAME##_1, OP, FORMAT, 2, 1) \
    LINEAR_KERNEL(OP##_##NAME##_8, OP, FORMAT, 4, 8)

#define LINEAR_KERNELS(OP) WEIGHT_FORMATS(LINEAR_KERNELS_OF, OP)

#endif
