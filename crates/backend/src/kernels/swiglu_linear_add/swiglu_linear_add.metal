// The gated activation before the down projection.
#include "swiglu.h"

kernel void swiglu(constant SwigluArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                   device const float *gate [[buffer(2)]], device const float *up [[buffer(3)]],
                   device float *out [[buffer(4)]], BUILTINS) {
    swiglu_element(args, inputs, gate, up, out, group.x * group_size.x + thread_index, group.y);
}
