// Choosing tokens, and carrying them to the next step.
#include "choose.h"

extern "C" __global__ void choose(const ChooseArgs args, const uint *inputs, const float *logits, uint *chosen) {
    __shared__ float best_logits[1024];
    __shared__ uint best_ids[1024];
    choose_row(args, inputs, logits, chosen, best_logits, best_ids, blockIdx.y, threads());
}

extern "C" __global__ void carry(const CarryArgs args, uint *inputs, const uint *chosen) {
    carry_id(args, inputs, chosen, blockIdx.x * blockDim.x + threadIdx.x);
}
