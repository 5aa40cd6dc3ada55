// Which experts rows go to, rows gathered by expert, and the sum of what a row's experts make.
//
// A slot is one of a row's chosen experts, `row * n_used + rank`. Slots of one expert lie in places side by side,
// from a multiple of `each` on; up to `each` of them are an item: what one threadgroup multiplies together. Of
// items there is their number, a word that is free, and for each its expert and how many slots it has.
#include "choose_experts.h"
#include "row.h"

extern __shared__ __align__(16) uchar memory[];

// `w . x` of four elements, added to `sum`.
FN float add_dot(float4 w, float4 x, float sum) {
    return fmaf(w.w, x.w, fmaf(w.z, x.z, fmaf(w.y, x.y, fmaf(w.x, x.x, sum))));
}

// Elements that a SIMD-group's lanes take in turn: a router's sums are taken in one order by any kernel.
#define STEP_ELEMENTS 128

// Router logits of rows that are normalised: ROWS rows and EXPERTS experts a SIMD-group.
template <uint ROWS, uint EXPERTS>
FN void router(const RouterArgs &args, const uint *inputs, const float *hidden, const float *weight, float *logits) {
    const uint lane = threadIdx.x % 32, first_expert = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * EXPERTS;
    const uint first_row = blockIdx.y * ROWS;
    allow_next();
    wait_for_inputs();
    const uint n_rows = inputs[args.end_at];
    if (first_expert >= args.n_experts || first_row >= n_rows) return;
    float sums[EXPERTS][ROWS] = {};
    UNROLL_BY(EXPERTS == 1 ? 4 : 1)
    for (uint i = 4 * lane; i < args.cols; i += STEP_ELEMENTS) {
        float4 w[EXPERTS], x[ROWS];
        UNROLL
        for (uint e = 0; e < EXPERTS; e++) {
            w[e] = *(const float4 *)(weight + ulong(min(first_expert + e, args.n_experts - 1)) * args.cols + i);
        }
        UNROLL
        for (uint r = 0; r < ROWS; r++) x[r] = *(const float4 *)(hidden + ulong(min(first_row + r, n_rows - 1)) * args.cols + i);
        UNROLL
        for (uint e = 0; e < EXPERTS; e++) {
            UNROLL
            for (uint r = 0; r < ROWS; r++) sums[e][r] = add_dot(w[e], x[r], sums[e][r]);
        }
    }
    UNROLL
    for (uint e = 0; e < EXPERTS; e++) {
        UNROLL
        for (uint r = 0; r < ROWS; r++) {
            const float sum = simd_sum(sums[e][r]);
            const bool exists = first_expert + e < args.n_experts && first_row + r < n_rows;
            if (lane == 0 && exists) logits[ulong(first_row + r) * args.n_experts + first_expert + e] = sum;
        }
    }
}

#define ROUTER(NAME, EXPERTS)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256) NAME(const RouterArgs args, const uint *inputs,           \
                                                           const float *hidden, const float *weight, float *logits) { \
        router<8, EXPERTS>(args, inputs, hidden, weight, logits);                                               \
    }
ROUTER(router_few, 1)
ROUTER(router_many, 4)

// Loads of a lane that are under way before the row is known.
#define AHEAD 8

// The same of the only row, which every block normalises first; an expert a SIMD-group.
extern "C" __global__ void __launch_bounds__(256)
    router_one(const RouterArgs args, const uint *inputs, const float *x, const float *norm, const float *weight,
               float *hidden, float *logits) {
    __shared__ float partial[32];
    float4 *row = (float4 *)memory;
    const uint lane = threadIdx.x % 32, expert = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    const bool exists = expert < args.n_experts;
    RowNorm<LOADS> weights;
    weights.load(norm, args.cols);
    weight += ulong(exists ? expert : 0) * args.cols;
    float4 w[AHEAD];
    UNROLL
    for (uint n = 0; n < AHEAD; n++) w[n] = load_or_zero(weight, 4 * lane + n * STEP_ELEMENTS, args.cols);
    allow_next();
    wait_for_inputs();
    weights.apply(x, norm, args.cols, args.cols, args.eps, partial, [&](uint i, float4 v, float scale) {
        v = scaled(v, scale);
        row[i / 4] = v;
        if (blockIdx.x == 0) *(float4 *)(hidden + i) = v;
    });
    group_barrier();
    float sum = 0;
    UNROLL
    for (uint n = 0; n < AHEAD; n++) {
        const uint i = 4 * lane + n * STEP_ELEMENTS;
        if (i < args.cols) sum = add_dot(w[n], row[i / 4], sum);
    }
    UNROLL_BY(4)
    for (uint i = 4 * lane + AHEAD * STEP_ELEMENTS; i < args.cols; i += STEP_ELEMENTS) {
        sum = add_dot(*(const float4 *)(weight + i), row[i / 4], sum);
    }
    sum = simd_sum(sum);
    if (lane == 0 && exists) logits[expert] = sum;
}

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
    uint *counts = (uint *)memory;
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
