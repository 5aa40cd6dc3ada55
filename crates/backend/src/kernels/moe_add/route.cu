// Which experts rows go to, rows gathered by expert, and the sum of what a row's experts make.
//
// A slot is one of a row's chosen experts, `row * n_used + rank`. Slots of one expert lie in places side by side,
// from a multiple of `each` on; up to `each` of them are an item: what one threadgroup multiplies together. Of
// items there is their number, a word that is free, and for each its expert and how many slots it has.
#include "args.h"
#include "choose_experts.h"
#include "cuda.h"

// A SIMD-group a row. Of the only row slots are items as they are, if `items` are wanted.
extern "C" __global__ void route_rows(const RouteArgs args, const uint *inputs, const float *logits, uint *experts,
                                      float *shares, uint *items, uint *slots) {
    const uint row = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    allow_next();
    wait_for_inputs();
    if (row >= inputs[args.end_at]) return;
    experts += ulong(row) * args.n_used, shares += ulong(row) * args.n_used;
    choose_experts(args.n_experts, args.n_used, args.renormalise, logits + ulong(row) * args.n_experts, experts, shares,
                   lane);
    if (!args.has_items || lane != 0) return;
    items[0] = args.n_used;
    for (uint i = 0; i < args.n_used; i++) {
        items[2 + 2 * i] = experts[i], items[3 + 2 * i] = 1;
        slots[i] = i;
    }
}

extern __shared__ uint counts[];

// The sum over a block of up to 1024 threads.
FN uint block_sum(uint x) {
    __shared__ uint sums[32];
    for (uint i = 16; i > 0; i /= 2) x += __shfl_xor_sync(0xffffffffu, x, i);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    group_barrier();
    uint sum = 0;
    for (uint i = 0; i < blockDim.x / 32; i++) sum += sums[i];
    group_barrier();
    return sum;
}

// A block an expert, all of which count all slots: slots in order, to the expert's places.
extern "C" __global__ void gather_slots(const RouteArgs args, const uint *inputs, const uint *experts, uint *items,
                                        uint *slots) {
    __shared__ uint taken[32];
    const uint own = blockIdx.x, simdgroup = threadIdx.x / 32, lane = threadIdx.x % 32;
    allow_next();
    wait_for_inputs();
    const uint first = inputs[args.first_at] * args.n_used, end = inputs[args.end_at] * args.n_used;
    for (uint i = threadIdx.x; i < args.n_experts; i += blockDim.x) counts[i] = 0;
    group_barrier();
    for (uint i = first + threadIdx.x; i < end; i += blockDim.x) atomicAdd(&counts[experts[i]], 1);
    group_barrier();
    uint before = 0;
    for (uint i = threadIdx.x; i < own; i += blockDim.x) before += (counts[i] + args.each - 1) / args.each;
    before = block_sum(before);
    const uint n = counts[own], n_items = (n + args.each - 1) / args.each;
    if (own == args.n_experts - 1 && threadIdx.x == 0) items[0] = before + n_items;
    for (uint i = threadIdx.x; i < n_items; i += blockDim.x) {
        items[2 + 2 * (before + i)] = own, items[3 + 2 * (before + i)] = min(args.each, n - i * args.each);
    }
    uint place = before * args.each;
    for (uint start = first; n > 0 && start < end; start += blockDim.x) {
        const uint slot = start + threadIdx.x;
        const bool is_own = slot < end && experts[slot] == own;
        const uint lanes = __ballot_sync(0xffffffffu, is_own);
        if (lane == 0) taken[simdgroup] = __popc(lanes);
        group_barrier();
        uint at = place + __popc(lanes & ((1u << lane) - 1));
        for (uint i = 0; i < blockDim.x / 32; i++) {
            if (i < simdgroup) at += taken[i];
            place += taken[i];
        }
        if (is_own) slots[at] = slot;
        group_barrier();
    }
}

// `residual += scale * sum over a row's slots of share * slot`, best first.
extern "C" __global__ void sum_slots(const SumSlotsArgs args, const uint *inputs, const float *made, const float *shares,
                                     float *residual) {
    const uint row = blockIdx.y, col = blockIdx.x * blockDim.x + threadIdx.x;
    allow_next();
    wait_for_inputs();
    if (row >= inputs[args.n_rows_at] || col >= args.cols) return;
    made += ulong(row) * args.n_used * args.cols + col, shares += ulong(row) * args.n_used;
    float sum = 0;
    UNROLL_BY(8)
    for (uint rank = 0; rank < args.n_used; rank++) sum = fmaf(shares[rank], made[ulong(rank) * args.cols], sum);
    float &to = residual[ulong(row) * args.cols + col];
    to = fmaf(args.scale, sum, to);
}
