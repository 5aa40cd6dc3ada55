// The body shared by both dialects; the norm is a launch of its own before it.
#include "linear.h"

// `out[row][o] = sum + bias[o]`
struct StoreLinear {
    DEVICE const float *bias;
    DEVICE float *out;
    uint cols;
    bool has_bias;
    MEMBER void operator()(uint row, uint o, float sum) const {
        out[ulong(row) * cols + o] = has_bias ? sum + bias[o] : sum;
    }
};

template <typename Format, uint OUTS, uint ROWS>
FN void norm_linear(CONSTANT LinearArgs &args, DEVICE const uint *inputs, DEVICE const uchar *weight,
                    DEVICE const float *bias, DEVICE const float *x, DEVICE float *out, uint group_x,
                    uint group_y, Threads t) {
    StoreLinear write = {bias, out, args.out_cols, args.has_bias != 0};
    linear<Format, OUTS, ROWS>(args, inputs, weight, x, group_x, group_y, t, write);
}
