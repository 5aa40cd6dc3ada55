// RMSNorm on its own and, as `norm_add`, after a linear map.
#include "rms_norm.h"

[[max_total_threads_per_threadgroup(1024)]]
kernel void rms_norm(constant NormArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                     device const float *x [[buffer(2)]], device const float *weight [[buffer(3)]],
                     device float *out [[buffer(4)]], BUILTINS) {
    threadgroup float partial[MAX_SIMDGROUPS];
    rms_norm_row(args, inputs, x, weight, out, partial, group.y, THREADS);
}

[[max_total_threads_per_threadgroup(1024)]]
kernel void norm_add(constant NormArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                     device const float *x [[buffer(2)]], device const float *weight [[buffer(3)]],
                     device float *residual [[buffer(4)]], BUILTINS) {
    threadgroup float partial[MAX_SIMDGROUPS];
    norm_add_row(args, inputs, x, weight, residual, partial, group.y, THREADS);
}
