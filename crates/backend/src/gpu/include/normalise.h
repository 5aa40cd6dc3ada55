// RMSNorm of one row by one threadgroup.
#ifndef QUARREL_NORMALISE_H
#define QUARREL_NORMALISE_H

#include "dialect.h"

// The most SIMD-groups a threadgroup may have: places in `partial`.
#define MAX_SIMDGROUPS 32

// Calls `write(i, normalised value)` for each of the row's elements.
template <typename Write>
FN void normalise(DEVICE const float *x, DEVICE const float *weight, uint cols, float eps,
                  THREADGROUP float *partial, Threads t, Write write) {
    float squares = 0;
    for (uint i = t.index; i < cols; i += t.count) squares = multiply_add(x[i], x[i], squares);
    const float mean = group_sum(squares, partial, t) / float(cols);
    const float scale = 1.0f / exact_sqrt(mean + eps);
    for (uint i = t.index; i < cols; i += t.count) write(i, x[i] * scale * weight[i]);
}

struct StoreNorm {
    DEVICE float *out;
    MEMBER void operator()(uint i, float value) const { out[i] = value; }
};

struct AddNorm {
    DEVICE float *residual;
    float scale;
    MEMBER void operator()(uint i, float value) const { residual[i] = multiply_add(scale, value, residual[i]); }
};

#endif
