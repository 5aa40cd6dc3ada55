// How a block of the kernels of rounded.h adds up products: a ring in shared memory, and sums in registers.
#ifndef QUARREL_ROUNDED_RING_H
#define QUARREL_ROUNDED_RING_H

#include "fragments.h"
#include "matrix.h"
#include "parts.h"
#include "prompt_x.h"
#include "rounded_memory.h"

// Bands of 16 outputs that a block does, one a warp.
#define BANDS 16u
// Groups in which parts are added up, each by a block: the host says.
#ifndef PART_GROUPS
#define PART_GROUPS 8
#endif

#if MATRIX_UNIT == 90

// The sizes of a kernel; `rounded.rs` counts as this does.
//
// A ring of stages, each of some steps of 64 columns: x, which all read, and a slot of weights for each band,
// that its warp fills again as soon as it has unpacked what was there.
template <typename P, uint TOKENS>
struct Rounded {
    typedef P Packing;
    static constexpr uint THREADS = 32 * BANDS;
    // A thread's sums.
    static constexpr uint SUMS = TOKENS / 2;
    // Two KiB of a band are copied together: the copy engine does not keep up with smaller pieces, and SIMD-groups wait and
    // ask once for all.
    static constexpr uint COPIED = 2560;
    static constexpr uint TOGETHER = Packing::TOGETHER;
    static constexpr uint WANTED = COPIED / Packing::BYTES > TOGETHER ? COPIED / Packing::BYTES : TOGETHER;
    // Two fragments take turns from step to step: after a stage it must be the first one's again, but where a stage is one step.
    static constexpr uint STEPS = WANTED > 1 ? WANTED / 2 * 2 : 1;
    static_assert(STEPS % TOGETHER == 0, "neighbours are copied together");
    static constexpr uint X_BYTES = TOKENS * STEP_COLS * 2, SLOT_BYTES = STEPS * Packing::BYTES;
    // With the barriers: x has come, x was read, and the weights of each band have come.
    static constexpr uint STAGE_BYTES = STEPS * X_BYTES + BANDS * SLOT_BYTES + 8 * (2 + BANDS);
    static constexpr uint BUDGET = 225 * 1024;
    static constexpr uint STAGES = BUDGET / STAGE_BYTES < 8 ? BUDGET / STAGE_BYTES : 8;
    static constexpr uint WEIGHTS = STAGES * STEPS * X_BYTES, BARRIERS = WEIGHTS + STAGES * BANDS * SLOT_BYTES;
    static_assert(RoundedMemory<Packing::BYTES, TOGETHER, TOKENS>::BYTES == 1024 + STAGES * STAGE_BYTES, "the host's size");
    static_assert(STAGES >= 2, "x is asked for while another stage is read");
    // Where the ring was.
    static_assert(SUMS * THREADS * 4 <= BARRIERS, "sums have room");
};

// Where the ring is.
FN uchar *ring_memory() { return shared_memory + (0u - shared_address(shared_memory)) % 1024; }

// The compiler shall see that all lanes go the same way.
FN uint own_warp() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }

// A stage of the ring: which, the how many-th one it is, and the parity of its turn.
struct Stage {
    uint index, visit, turn;
};

// A warp's view of the ring: its band, and the rows from `x` on, in `n` steps. Addresses are of shared memory.
template <typename R>
struct WarpRing {
    uint warp, lane, start, slots, slots_filled;
    ulong first_x;
    // What is asked for next.
    const uchar *weights;
    int weight_bytes;
    const ushort *x;
    uint x_rows, n_rows, n;

    MEMBER WarpRing(uint memory, const uchar *weights, const ushort *x, uint x_rows, uint n_rows, uint n)
        : weights(weights), weight_bytes(n * R::Packing::BYTES), x(x), x_rows(x_rows), n_rows(n_rows), n(n) {
        // Asked for so, the lane is not worked out anew for each step.
        warp = own_warp(), lane = __shfl_sync(0xffffffffu, threadIdx.x % 32, threadIdx.x % 32), start = memory;
        slots = start + R::WEIGHTS + warp * R::STAGES * R::SLOT_BYTES;
        slots_filled = start + R::BARRIERS + 8 * (2 + warp) * R::STAGES;
        first_x = swizzled_matrix(start);
    }

    MEMBER uint x_filled(uint stage) const { return start + R::BARRIERS + 8 * stage; }
    MEMBER uint x_read(uint stage) const { return x_filled(stage) + 8 * R::STAGES; }
    MEMBER uint slot_filled(uint stage) const { return slots_filled + 8 * stage; }
    MEMBER ulong x_of(Stage at, uint within) const { return first_x + (at.index * R::STEPS + within) * (R::X_BYTES / 16); }
    static MEMBER void next(Stage &at) {
        at.visit++, at.index++;
        if (at.index == R::STAGES) at.index = 0, at.turn ^= 1;
    }
    static MEMBER uint before(uint stage) { return stage == 0 ? R::STAGES - 1 : stage - 1; }

    MEMBER void begin() {
        if (lane == 0) {
            UNROLL_BY(1)
            for (uint stage = 0; stage < R::STAGES; stage++) {
                barrier_init(slot_filled(stage), 1);
                if (warp == 0) barrier_init(x_filled(stage), 1), barrier_init(x_read(stage), R::THREADS);
            }
            publish_barriers();
        }
        __syncwarp();
        // The first x shall not stand behind all of the first weights.
        copy_weights(0);
        __syncthreads();
        if (warp == 0) {
            wait_for_inputs();
            UNROLL_BY(1)
            for (uint stage = 0; stage < R::STAGES; stage++) copy_x(stage, stage);
        }
        UNROLL_BY(1)
        for (uint stage = 1; stage < R::STAGES; stage++) copy_weights(stage);
    }
    // The next weights, if there are any.
    MEMBER void copy_weights(uint stage) {
        if (weight_bytes <= 0) return;
        if (lane == 0) {
            const uint bytes = min(weight_bytes, int(R::SLOT_BYTES));
            barrier_expect(slot_filled(stage), bytes);
            copy_bulk(slots + stage * R::SLOT_BYTES, weights, bytes, slot_filled(stage));
        }
        weights += R::SLOT_BYTES, weight_bytes -= R::SLOT_BYTES;
    }
    // The x of the `visit`th stage, if there is one.
    MEMBER void copy_x(uint visit, uint stage) const {
        const uint first = visit * R::STEPS, bytes = n_rows * STEP_COLS * 2;
        if (lane > 0 || first >= n) return;
        barrier_expect(x_filled(stage), min(R::STEPS, n - first) * bytes);
        UNROLL_BY(1)
        for (uint i = 0; i < R::STEPS && first + i < n; i++) {
            const ushort *from = x + ulong(first + i) * x_rows * STEP_COLS;
            copy_bulk(start + (stage * R::STEPS + i) * R::X_BYTES, from, bytes, x_filled(stage));
        }
    }
    // Weights of a step.
    MEMBER void unpack(Stage at, uint within, TileFragment &f) const {
        if (within == 0) barrier_wait(slot_filled(at.index), at.turn);
        const uchar *slot = (const uchar *)__cvta_shared_to_generic(slots + at.index * R::SLOT_BYTES);
        R::Packing::unpack(Placed<typename R::Packing>::of(slot, within), lane, f);
    }
    // The x of the stage before `at` was read.
    MEMBER void leave_stage(Stage at) const {
        if (at.visit > 0) barrier_arrive(x_read(before(at.index)));
    }
    // It gives way to that of a later stage, when all have read it: one warp after the other sees to it, at the
    // end of `at`, so that it need not wait for the others.
    MEMBER void fill_stage_before(Stage at) const {
        if (at.visit % BANDS != warp || at.visit == 0) return;
        const uint stage = before(at.index);
        barrier_wait(x_read(stage), at.index == 0 ? at.turn ^ 1 : at.turn);
        copy_x(at.visit - 1 + R::STAGES, stage);
    }
};

// What a thread adds up: each part of the steps alone, and the parts in order.
template <typename R>
struct PartSums {
    float part[R::SUMS], total[R::SUMS];
    uint n_tiles, first, which, end;  // the part, and behind which of the block's steps it ends
    uint adds;                        // whether it has begun

    MEMBER PartSums(uint n_tiles, uint first, uint first_part)
        : n_tiles(n_tiles), first(first), which(first_part), end(0), adds(0) {
        UNROLL
        for (uint i = 0; i < R::SUMS; i++) part[i] = total[i] = 0;
        begin(0);
    }
    // The part that has a step `i`.
    MEMBER void begin(uint i) {
        UNROLL_BY(1)
        while (end <= i && which < PARTS) end = part_begin(n_tiles, R::TOGETHER, ++which) - first;
    }
    MEMBER void end_step(uint i) {
        adds = 1;
        if (i + 1 != end) return;
        wait_for_products<0>();
        settle(part);
        UNROLL
        for (uint k = 0; k < R::SUMS; k++) total[k] += part[k];
        adds = 0;
        begin(i + 1);
    }
};

// Step `i`, which is the `within`th of a stage: products of `now` start, and while they run the next step's
// weights are unpacked into `next`, once the step before is done with it.
template <typename R>
FN void multiply_next(WarpRing<R> &ring, Stage &at, uint within, uint i, TileFragment &now, TileFragment &next,
                      PartSums<R> &sums) {
    if (within == 0) barrier_wait(ring.x_filled(at.index), at.turn);
    const ulong x = ring.x_of(at, within);
    products_begin();
    multiply(sums.part, now.a[0], x, sums.adds);
    UNROLL
    for (uint kk = 1; kk < 4; kk++) multiply(sums.part, now.a[kk], x + 2 * kk);
    products_end();
    // The slot gives way to later weights when the products have them: before, loads from it may still be under way, and
    // the copy engine does not wait for these.
    if (within + 1 == R::STEPS) ring.copy_weights(at.index);
    wait_for_products<1>();
    if (within == 0) ring.leave_stage(at);
    if (within + 1 == R::STEPS) {
        ring.fill_stage_before(at);
        ring.next(at);
    }
    if (i + 1 < ring.n) ring.unpack(at, (within + 1) % R::STEPS, next);
    sums.end_step(i);
}

// Adds up what the ring brings.
template <typename R>
FN void add_up(WarpRing<R> &ring, PartSums<R> &sums) {
    constexpr uint at_once = R::STEPS < 2 ? 2 : R::STEPS;
    static_assert(at_once % 2 == 0 && at_once % R::STEPS == 0, "fragments take turns, and stages begin with the first");
    Stage at = {0, 0, 0};
    TileFragment fragments[2];
    if (ring.n > 0) ring.unpack(at, 0, fragments[0]);
    UNROLL_BY(1)
    for (uint first = 0; first < ring.n; first += at_once) {
        UNROLL
        for (uint i = 0; i < at_once; i++) {
            if (first + i >= ring.n) break;
            multiply_next(ring, at, i % R::STEPS, first + i, fragments[i % 2], fragments[1 - i % 2], sums);
        }
    }
    wait_for_products<0>();
    settle(sums.part);
}

// What this block does of its outputs' parts; `weight` is the warp's band.
template <typename R, uint TOKENS>
FN void multiply_parts(const TileShape &shape, const uchar *weight, const ushort *x, uint n_rows, uint memory,
                       float (&total)[R::SUMS]) {
    const uint rank = blockIdx.x % PART_GROUPS, parts = PARTS / PART_GROUPS;
    const uint first = part_begin(shape.n_tiles, R::TOGETHER, rank * parts);
    const uint n = part_begin(shape.n_tiles, R::TOGETHER, (rank + 1) * parts) - first;
    x += (ulong(first) * shape.x_rows + blockIdx.y * TOKENS) * STEP_COLS;
    WarpRing<R> ring(memory, weight + ulong(first) * R::Packing::BYTES, x, shape.x_rows, n_rows, n);
    ring.begin();
    PartSums<R> sums(shape.n_tiles, first, rank * parts);
    add_up<R>(ring, sums);
    wait_for_inputs();
    UNROLL
    for (uint i = 0; i < R::SUMS; i++) total[i] = sums.total[i];
}

#endif

#endif
