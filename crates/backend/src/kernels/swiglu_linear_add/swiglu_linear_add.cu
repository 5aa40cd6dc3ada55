// The gated activation before the down projection.
#include "swiglu.h"

extern "C" __global__ void swiglu(const SwigluArgs args, const uint *inputs, const float *gate,
                                  const float *up, float *out) {
    swiglu_element(args, inputs, gate, up, out, blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y);
}
