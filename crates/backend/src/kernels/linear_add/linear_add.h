// The body shared by both dialects.
#include "linear.h"

// `residual[row][o] += scale * (sum + bias[o])`
struct AddLinear {
    DEVICE const float *bias;
    DEVICE float *residual;
    uint cols;
    bool has_bias;
    float scale;
    MEMBER void operator()(uint row, uint o, float sum) const {
        const ulong at = ulong(row) * cols + o;
        residual[at] = multiply_add(scale, has_bias ? sum + bias[o] : sum, residual[at]);
    }
};

template <typename Format, uint OUTS, uint ROWS>
FN void linear_add(CONSTANT LinearArgs &args, DEVICE const uint *inputs, DEVICE const uchar *weight,
                   DEVICE const float *bias, DEVICE const float *x, DEVICE float *residual, uint group_x,
                   uint group_y, Threads t) {
    AddLinear write = {bias, residual, args.out_cols, args.has_bias != 0, args.scale};
    linear<Format, OUTS, ROWS>(args, inputs, weight, x, group_x, group_y, t, write);
}
