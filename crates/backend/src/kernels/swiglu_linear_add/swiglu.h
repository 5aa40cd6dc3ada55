// The gated activation; the map that follows is `linear_add`'s. One thread an element.
#include "activate.h"
#include "args.h"

// `out = act(gate) * up`
FN void swiglu_element(CONSTANT SwigluArgs &args, DEVICE const uint *inputs, DEVICE const float *gate,
                       DEVICE const float *up, DEVICE float *out, uint col, uint row) {
    if (col >= args.cols || row >= inputs[args.n_rows_at]) return;
    const ulong at = ulong(row) * args.cols + col;
    out[at] = activate(gate[at], args.gelu_tanh) * up[at];
}
