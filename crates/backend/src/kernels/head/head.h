// The body shared by both dialects; the final norm is a launch of its own before it.
#include "linear.h"

// `out[row][o] = cap(scale * sum)`; a cap of 0 is none.
struct StoreLogits {
    DEVICE float *out;
    uint cols;
    float scale;
    float softcap;
    MEMBER void operator()(uint row, uint o, float sum) const {
        const float logit = scale * sum;
        out[ulong(row) * cols + o] = softcap > 0 ? softcap * exact_tanh(logit / softcap) : logit;
    }
};

template <typename Format, uint OUTS, uint ROWS>
FN void head(CONSTANT LinearArgs &args, DEVICE const uint *inputs, DEVICE const uchar *weight,
             DEVICE const float *bias, DEVICE const float *x, DEVICE float *out, uint group_x, uint group_y,
             Threads t) {
    (void)bias;
    StoreLogits write = {out, args.out_cols, args.scale, args.softcap};
    linear<Format, OUTS, ROWS>(args, inputs, weight, x, group_x, group_y, t, write);
}
