// Likeliest tokens, and carrying them to the next step.
#include "choose.h"
#include "cuda.h"

extern "C" __global__ void maxima(const ChooseArgs args, const uint *inputs, const float *logits, uint *maxima) {
    allow_next();
    wait_for_inputs();
    chunk_maxima(args, inputs, logits, maxima, blockIdx.x, blockIdx.y, threads());
}

extern "C" __global__ void choose(const ChooseArgs args, const uint *inputs, const float *logits, uint *maxima,
                                  uint *chosen) {
    __shared__ uint largest[32];
    wait_for_inputs();
    choose_row(args, inputs, logits, maxima, chosen, largest, blockIdx.y, threads());
}

extern "C" __global__ void carry(const CarryArgs args, uint *inputs, const uint *chosen) {
    carry_id(args, inputs, chosen, blockIdx.x * blockDim.x + threadIdx.x);
}
