// Products of packed weights and prompt rows: sum over k of weight[n][k] * x[row][k].
//
// A block has 8 warps that make 128 outputs of TOKENS rows. Weight rows are the
// rows of the matrix units' product and tokens its columns, since packed weights
// are already laid out as fragments of its first operand. A ring in shared memory
// holds steps of 64 columns: x as the units read it, weights still packed.
//
// A sum is one accumulator that takes columns in order, 16 at a time, whatever
// TOKENS is and wherever the row stands: a row's result depends on nothing else.
#ifndef QUARREL_PROMPT_PRODUCT_H
#define QUARREL_PROMPT_PRODUCT_H

#include "args.h"
#include "fragments.h"
#include "matrix.h"
#include "prompt_x.h"

#if MATRIX_UNIT > 0

// Where a block stands in a grid of (outputs, rows). Blocks of the same outputs run
// together, since they share weights.
struct BlockPlace {
    uint outputs, rows;
    MEMBER BlockPlace() {
        const uint i = blockIdx.y * gridDim.x + blockIdx.x;
        outputs = i / gridDim.y, rows = i % gridDim.y;
    }
};

// What a block multiplies. `band` is the one of its 8 bands of weights that the thread copies.
struct Operands {
    const ushort *x;    // the block's first row
    const uchar *band;
    uint x_rows;
    uint n_steps;
    int n_rows;  // from the block's first on, none if not positive
};

// For `n_rows` rows from `first_row` on, and of weights of `n_outputs` rows the part that starts at `band`.
FN Operands operands(const TileShape &shape, int n_rows, const ushort *x, uint first_row, const uchar *weight,
                     uint n_outputs, uint band, uint tile_bytes) {
    Operands from;
    from.x = x + first_row * STEP_COLS;
    from.x_rows = shape.x_rows;
    from.n_steps = shape.n_tiles;
    from.n_rows = n_rows;
    // Bands beyond the last are read as the last; their results are not kept.
    band = min(band, (n_outputs + TILE_ROWS - 1) / TILE_ROWS - 1);
    from.band = weight + ulong(band) * from.n_steps * tile_bytes;
    return from;
}

// For rows from the `first_row`-th of the launch's on.
FN Operands operands(const TileShape &shape, const uint *inputs, const ushort *x, uint first_row, const uchar *weight,
                     uint n_outputs, uint band, uint tile_bytes) {
    const int n_rows = int(inputs[shape.end_at] - inputs[shape.first_at] - first_row);
    return operands(shape, n_rows, x, first_row, weight, n_outputs, band, tile_bytes);
}

// Stages of a ring, up to MOST that BUDGET bytes hold, then two barriers a stage. A stage
// has STEPS steps, each of TOKENS rows and BANDS tiles.
template <typename P, uint TOKENS, uint N_BANDS, uint N_STEPS, uint BUDGET, uint MOST>
struct StageRing {
    typedef P Packing;
    typedef Placed<P> Place;
    static constexpr uint BANDS = N_BANDS, STEPS = N_STEPS, TILE_BYTES = Place::OWN;
    // What tiles share comes with the first of them, and stays until the last is unpacked: small copies take long.
    static constexpr uint SHARED_SLOTS = 3, SHARED_BYTES = SHARED_SLOTS * BANDS * P::SHARED;
    static constexpr uint X_BYTES = TOKENS * STEP_COLS * 2;
    static constexpr uint STAGE_BYTES = STEPS * (X_BYTES + BANDS * TILE_BYTES);
    static constexpr uint STAGES = (BUDGET - SHARED_BYTES) / STAGE_BYTES < MOST ? (BUDGET - SHARED_BYTES) / STAGE_BYTES : MOST;
    static constexpr uint BYTES = STAGES * (STAGE_BYTES + 16) + SHARED_BYTES;
    static_assert(P::SHARED == 0 || SHARED_SLOTS * P::TOGETHER >= STAGES * STEPS + P::TOGETHER - 1, "it stays long enough");
    // A stage is given up when the step after it has been waited for.
    static_assert(STAGES >= (STEPS == 1 ? 3 : 2), "a ring that never stops");

    // A step: which of its stage, in which stage, for the how many-th time.
    struct Step {
        uint within, stage, turn;
        MEMBER void next_stage() {
            within = 0;
            if (++stage == STAGES) stage = 0, turn++;
        }
        MEMBER void next() {
            if (++within == STEPS) next_stage();
        }
    };

    uchar *start;

    MEMBER uchar *x(Step at) const { return start + (at.stage * STEPS + at.within) * X_BYTES; }
    MEMBER uchar *weights(Step at, uint unit) const {
        return start + STAGES * STEPS * X_BYTES + (at.stage * BANDS * STEPS + unit * STEPS + at.within) * TILE_BYTES;
    }
    // The tile of that step.
    MEMBER TileAt tile(Step at, uint unit) const {
        const uint i = (at.turn * STAGES + at.stage) * STEPS + at.within;
        return {weights(at, unit), shared(i, unit), i % P::TOGETHER};
    }
    // What the `i`th step's tile shares.
    MEMBER uchar *shared(uint i, uint unit) const {
        return start + STAGES * (STAGE_BYTES + 16) + (i / P::TOGETHER % SHARED_SLOTS * BANDS + unit) * P::SHARED;
    }
    MEMBER uint filled(uint stage) const { return shared_address(start) + STAGES * STAGE_BYTES + stage * 16; }
    MEMBER uint emptied(uint stage) const { return filled(stage) + 8; }
};

// That of prompts.
template <typename Packing, uint TOKENS>
using PromptRing = StageRing<Packing, TOKENS, 8, 1, (MATRIX_UNIT == 80 ? 96 : TOKENS == 64 ? 110 : 225) * 1024, MATRIX_UNIT == 80 ? 3 : 8>;

// Which sum is a thread's i-th: row `token(i)` and output `output(i)` of the block's.
template <uint TOKENS>
struct Places {
    // A warp has 16 outputs of all tokens or, where it reads x through registers, 32 x 64.
    static constexpr uint DOWN = MATRIX_UNIT == 80 && TOKENS == 128 ? 2 : 1;
    static constexpr uint ACROSS = TOKENS / DOWN / 8;
    uint first_output, first_token;

    MEMBER Places() {
        const uint lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        first_output = warp / DOWN * DOWN * TILE_ROWS + lane / 4;
        first_token = warp % DOWN * (ACROSS * 8) + lane % 4 * 2;
    }
    // A thread has few outputs of many tokens: which of them is the i-th's.
    static MEMBER uint nth_output(uint i) { return i / (4 * ACROSS) * 2 + i / 2 % 2; }
    MEMBER uint output(uint i) const { return first_output + nth_output(i) * 8; }
    MEMBER uint token(uint i) const { return first_token + i / 4 % ACROSS * 8 + i % 2; }
};

#endif

#if MATRIX_UNIT == 90

// For the copying warps: each has two bands of weights and a quarter of x, a lane for each.
template <typename Packing, uint TOKENS>
FN void fill_ring(const PromptRing<Packing, TOKENS> &ring, const Operands &from) {
    typedef PromptRing<Packing, TOKENS> Ring;
    const uint lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
    const int quarter = TOKENS / 4, rows = max(0, min(quarter, from.n_rows - int(warp) * quarter));
    const uint x_bytes = rows * STEP_COLS * 2, all_bytes = x_bytes + 2 * Ring::TILE_BYTES;
    const bool has_x = lane == 2;
    const uint bytes = has_x ? x_bytes : Ring::TILE_BYTES, step_bytes = has_x ? from.x_rows * STEP_COLS * 2 : Ring::TILE_BYTES;
    const uchar *next = has_x ? (const uchar *)(from.x + warp * quarter * STEP_COLS) : from.band;
    // Whether the `i`th step comes with what its tile shares with later ones.
    const auto begins = [](uint i) { return Packing::SHARED > 0 && i % Packing::TOGETHER == 0; };
    const auto expect = [&](uint stage, uint i) {
        barrier_expect(ring.filled(stage), all_bytes + (begins(i) ? 2 * Packing::SHARED : 0));
    };
    // Copies what this lane has of the `i`th step. Few registers are left here: addresses go from step to step.
    const auto copy = [&](typename Ring::Step step, uint i) {
        const uchar *to = has_x ? ring.x(step) + warp * quarter * STEP_COLS * 2 : ring.weights(step, warp * 2 + lane % 2);
        if (bytes > 0) copy_bulk(shared_address(to), next, bytes, ring.filled(step.stage));
        if (!has_x && begins(i)) {
            const uint shared = shared_address(ring.shared(i, warp * 2 + lane % 2));
            copy_bulk(shared, next + Packing::TOGETHER * Ring::TILE_BYTES, Packing::SHARED, ring.filled(step.stage));
        }
        next += step_bytes;
        if (Packing::SHARED && !has_x && (i + 1) % Packing::TOGETHER == 0) next += Packing::SHARED;
    };

    const uint n_first = min(Ring::STAGES, from.n_steps);
    for (uint stage = 0; stage < n_first; stage++) {
        if (lane == 0) expect(stage, stage);
        __syncwarp();
        if (lane < 2) copy({0, stage, 0}, stage);
    }
    wait_for_inputs();
    for (uint stage = 0; stage < n_first && has_x; stage++) copy({0, stage, 0}, stage);
    typename Ring::Step step = {0, 0, 0};
    for (uint i = n_first; i < from.n_steps; i++, step.next()) {
        barrier_wait(ring.emptied(step.stage), step.turn);
        if (lane == 0) expect(step.stage, i);
        __syncwarp();
        if (lane < 3) copy(step, i);
    }
}

// One step: products of `now` start, and while they run the next step's weights
// are unpacked into `next`, once the step before is done with it.
template <typename Ring, uint N>
FN void multiply_step(const Ring &ring, bool is_last, typename Ring::Step &at, TileFragment &now, TileFragment &next,
                      float (&sums)[N]) {
    const ulong x = swizzled_matrix(shared_address(ring.x(at)));
    products_begin();
    UNROLL
    for (uint kk = 0; kk < 4; kk++) multiply(sums, now.a[kk], x + 2 * kk);
    products_end();
    const bool leaves_stage = at.within == 0 && (at.stage | at.turn) != 0;
    const uint before = at.stage == 0 ? Ring::STAGES - 1 : at.stage - 1;
    at.next();
    if (!is_last) barrier_wait(ring.filled(at.stage), at.turn);
    wait_for_products<1>();
    // Each lane for itself: for what one arrives for a warp, racecheck reports races.
    if (leaves_stage) barrier_arrive(ring.emptied(before));
    if (is_last) return;
    Ring::Packing::unpack(ring.tile(at, threadIdx.x / 32), threadIdx.x % 32, next);
}

// Adds the products of `n` steps from `at` on.
template <typename Ring, uint N>
FN void multiply_ring(const Ring &ring, uint n, typename Ring::Step &at, float (&sums)[N]) {
    TileFragment even, odd;
    barrier_wait(ring.filled(at.stage), at.turn);
    Ring::Packing::unpack(ring.tile(at, threadIdx.x / 32), threadIdx.x % 32, even);
    for (uint i = 0; i < n; i += 2) {
        multiply_step(ring, i + 1 == n, at, even, odd, sums);
        if (i + 1 == n) break;
        multiply_step(ring, i + 2 == n, at, odd, even, sums);
    }
    wait_for_products<0>();
    settle(sums);
}

// False for warps that only copy, and give their registers to the others.
template <typename Packing, uint TOKENS>
FN bool multiply_all(const PromptRing<Packing, TOKENS> &ring, const Operands &from, float (&sums)[TOKENS / 2]) {
    if (threadIdx.x == 0) {
        for (uint stage = 0; stage < PromptRing<Packing, TOKENS>::STAGES; stage++) {
            barrier_init(ring.filled(stage), 4);
            barrier_init(ring.emptied(stage), 256);
        }
        publish_barriers();
    }
    __syncthreads();
    if (threadIdx.x >= 256) {
        fewer_registers<24>();
        fill_ring(ring, from);
        return false;
    }
    more_registers<TOKENS == 64 ? 104 : 240>();
    for (uint i = 0; i < TOKENS / 2; i++) sums[i] = 0;
    typename PromptRing<Packing, TOKENS>::Step first = {0, 0, 0};
    multiply_ring(ring, from.n_steps, first, sums);
    wait_for_inputs();
    return true;
}

#elif MATRIX_UNIT == 80

template <uint TOKENS>
FN void multiply_fragments(const uchar *x, const TileFragment *f, float (&sums)[TOKENS / 2]) {
    const uint lane = threadIdx.x % 32, down = Places<TOKENS>::DOWN, across = Places<TOKENS>::ACROSS;
    const uint token = threadIdx.x / 32 % down * (across * 8) + lane / 16 * 8 + lane % 8;
    const uint row = shared_address(x) + token * 128;
    UNROLL
    for (uint kk = 0; kk < 4; kk++) {
        const uint from = row + chunk_place(2 * kk + lane / 8 % 2, token) * 16;
        UNROLL
        for (uint j = 0; j < across; j += 2) {
            uint b[4];
            load_matrices(b, from + j * 8 * 128);
            UNROLL
            for (uint i = 0; i < down; i++) {
                multiply_16x8(sums + (i * across + j) * 4, f[i].a[kk], b[0], b[1]);
                multiply_16x8(sums + (i * across + j + 1) * 4, f[i].a[kk], b[2], b[3]);
            }
        }
    }
}

template <typename Packing, uint TOKENS>
FN void copy_step(const PromptRing<Packing, TOKENS> &ring, const Operands &from, uint step) {
    const typename PromptRing<Packing, TOKENS>::Step at = {0, step % PromptRing<Packing, TOKENS>::STAGES, 0};
    if (step < from.n_steps) {
        const ushort *source = from.x + ulong(step) * from.x_rows * STEP_COLS;
        for (uint i = threadIdx.x; i < TOKENS * 8; i += 256) {
            if (i < uint(from.n_rows) * 8) copy_quad(shared_address(ring.x(at)) + i * 16, source + i * 8);
        }
        const uint to = shared_address(ring.weights(at, threadIdx.x / 32));
        const TileAt tile = Placed<Packing>::of(from.band, step);
        for (uint i = threadIdx.x % 32 * 16; i < Placed<Packing>::OWN; i += 512) copy_quad(to + i, tile.tile + i);
        const uint shared = shared_address(ring.shared(step, threadIdx.x / 32));
        for (uint i = threadIdx.x % 32 * 16; i < Packing::SHARED && tile.nth == 0; i += 512) copy_quad(shared + i, tile.shared + i);
    }
    commit_copies();
}

template <typename Packing, uint TOKENS>
FN bool multiply_all(const PromptRing<Packing, TOKENS> &ring, const Operands &from, float (&sums)[TOKENS / 2]) {
    const uint stages = PromptRing<Packing, TOKENS>::STAGES, down = Places<TOKENS>::DOWN;
    wait_for_inputs();
    for (uint step = 0; step < stages - 1; step++) copy_step(ring, from, step);
    for (uint i = 0; i < TOKENS / 2; i++) sums[i] = 0;
    for (uint step = 0; step < from.n_steps; step++) {
        wait_for_copies<stages - 2>();
        __syncthreads();
        copy_step(ring, from, step + stages - 1);
        TileFragment f[down];
        const typename PromptRing<Packing, TOKENS>::Step at = {0, step % stages, step / stages};
        UNROLL
        for (uint i = 0; i < down; i++) {
            const uint warp = threadIdx.x / 32 / down * down + i;
            Packing::unpack(ring.tile(at, warp), threadIdx.x % 32, f[i]);
        }
        multiply_fragments<TOKENS>(ring.x(at), f, sums);
    }
    return true;
}

#endif

#endif
