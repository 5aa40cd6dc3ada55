// The gated activation; the map that follows is `linear_add`'s. One thread an element.
#include "args.h"
#include "dialect.h"

// `out = act(gate) * up`
FN void swiglu_element(CONSTANT SwigluArgs &args, DEVICE const uint *inputs, DEVICE const float *gate,
                       DEVICE const float *up, DEVICE float *out, uint col, uint row) {
    if (col >= args.cols || row >= inputs[args.n_rows_at]) return;
    const ulong at = ulong(row) * args.cols + col;
    const float g = gate[at];
    float activated;
    if (args.gelu_tanh) {
        // sqrt(2 / pi)
        const float inner = 0.7978845608f * (g + 0.044715f * g * g * g);
        activated = 0.5f * g * (1.0f + exact_tanh(inner));
    } else {
        activated = g / (1.0f + exact_exp(-g));
    }
    out[at] = activated * up[at];
}
