// RMSNorm on its own and, as `norm_add`, after a linear map.
#include "rms_norm.h"

extern "C" __global__ void rms_norm(const NormArgs args, const uint *inputs, const float *x,
                                    const float *weight, float *out) {
    __shared__ float partial[MAX_SIMDGROUPS];
    rms_norm_row(args, inputs, x, weight, out, partial, blockIdx.y, threads());
}

extern "C" __global__ void norm_add(const NormArgs args, const uint *inputs, const float *x,
                                    const float *weight, float *residual) {
    __shared__ float partial[MAX_SIMDGROUPS];
    norm_add_row(args, inputs, x, weight, residual, partial, blockIdx.y, threads());
}
