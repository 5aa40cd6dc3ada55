// Experts' maps of weights as they are in the file, which are read again for every row that goes to them: for
// what has no tiles.
#include "cuda.h"
#include "linear.h"

// Outputs that a SIMD-group makes.
#define OUTS 4

// `made[slot] = W[its expert] * x[slot / divide]`
template <typename Format>
FN void map_slot(const SlotMapArgs &args, const uint *inputs, const uint *experts, const uchar *weight, const float *x,
                 float *made) {
    const uint row = inputs[args.first_at] + blockIdx.y, slot = row * args.n_used + blockIdx.x / args.groups;
    const uint first_out = (blockIdx.x % args.groups * (blockDim.x / 32) + threadIdx.x / 32) * OUTS;
    if (row >= inputs[args.end_at] || first_out >= args.out_cols) return;
    const ulong row_bytes = ulong(args.cols / Format::LEN) * sizeof(typename Format::Block);
    weight += ulong(experts[slot]) * args.out_cols * row_bytes;
    uint outs[OUTS];
    UNROLL
    for (uint o = 0; o < OUTS; o++) outs[o] = min(first_out + o, args.out_cols - 1);
    const uint rows[1] = {slot / args.divide};
    float sums[OUTS][1] = {};
    add_dots<Format, OUTS, 1>(weight, x, args.cols, row_bytes, outs, rows, threadIdx.x % 32, sums);
    UNROLL
    for (uint o = 0; o < OUTS; o++) {
        const float sum = simd_sum(sums[o][0]);
        if (threadIdx.x % 32 == 0 && first_out + o < args.out_cols) made[ulong(slot) * args.out_cols + outs[o]] = sum;
    }
}

#define MAP_SLOT(OP, FORMAT, NAME)                                                                                  \
    extern "C" __global__ void OP##_##NAME(const SlotMapArgs args, const uint *inputs, const uint *experts,         \
                                           const uchar *weight, const float *x, float *made) {                      \
        map_slot<FORMAT>(args, inputs, experts, weight, x, made);                                                   \
    }

WEIGHT_FORMATS(MAP_SLOT, moe_add)
