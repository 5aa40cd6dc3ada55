// Linear maps of generated rows in bfloat16 where there are warpgroups: sum over k of
// weight[n][k] * x[row][k] for 128 or 256 outputs n and up to 64 rows a block.
//
// Weights are the first operand and both stream through a ring, as for prompts
// (prompt_product.h). But columns are cut into the parts of generated_linear.h, and sums
// of each part begin at zero. The blocks of a cluster share the parts of the same
// outputs: each adds up its own in order, and then the blocks' sums are added in order,
// out of each other's shared memory. So a row's sum is taken in the same order whatever
// rows stand beside it, and however many.
#ifndef QUARREL_ROUNDED_H
#define QUARREL_ROUNDED_H

#include "activate.h"
#include "maps.h"
#include "parts.h"
#include "prompt_product.h"
#include "rounded_memory.h"

// Bands that a block does, one a warp; one more warp copies. Maps are split among many blocks,
// two a multiprocessor; gate and up have outputs enough for large ones, which read x less often.
#define MAP_BANDS 8
#define GATED_BANDS 16
#define ROUNDED_BOUNDS(BANDS) __launch_bounds__(32 * (BANDS) + 32, 16 / (BANDS))

#if MATRIX_UNIT == 90

// Blocks of a cluster wait for each other; what they wrote before is seen after.
FN void cluster_barrier() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// What is at this block's `address` in the shared memory of block `rank` of the cluster.
// It stays behind the barrier before, but many are under way at once.
FN float load_from_block(uint address, uint rank) {
    float value;
    asm volatile("{.reg .u32 a; mapa.shared::cluster.u32 a, %1, %2; ld.shared::cluster.f32 %0, [a];}"
                 : "=f"(value)
                 : "r"(address), "r"(rank));
    return value;
}

// The sizes of a kernel; `rounded.rs` counts as this does.
template <typename Packing, uint TOKENS, uint N_BANDS>
struct Rounded {
    static constexpr uint BANDS = N_BANDS, WORKERS = 32 * BANDS;
    // A thread's sums, and all of the block's.
    static constexpr uint SUMS = TOKENS / 2, TOTAL_BYTES = SUMS * WORKERS * 4;
    // One or two KiB of a band are copied together: the copy engine does not keep up with smaller pieces.
    static constexpr uint COPIED = BANDS == 8 && TOKENS > 16 ? 1280 : 2560;
    static constexpr uint STEPS = COPIED / Packing::BYTES > 1 ? COPIED / Packing::BYTES : 1;
    static constexpr uint BUDGET = (BANDS == 8 ? 111 : 225) * 1024 - TOTAL_BYTES;
    typedef ::StageRing<Packing, TOKENS, BANDS, STEPS, BUDGET, 8> Ring;
    static_assert(RoundedMemory<Packing::BYTES, TOKENS, BANDS>::BYTES == 1024 + Ring::BYTES + TOTAL_BYTES, "the host's size");
};

// The first step of part `part`.
FN uint part_begin(uint n_steps, uint part) { return n_steps * part / PARTS; }

// What a block multiplies: bands from `weight` on, and rows from `x` on, in steps `first` to `end`.
struct Streams {
    const uchar *weight;
    ulong band_bytes;
    uint n_bands;
    const ushort *x;
    uint x_rows, n_rows;
    uint first, end;
};

// For the copying warp: a lane for each band and for x of each of a stage's steps.
template <typename Ring>
FN void fill_ring(const Ring &ring, const Streams &from) {
    const uint lane = threadIdx.x % 32, n_steps = from.end - from.first, first_steps = min(n_steps, Ring::STAGES * Ring::STEPS);
    const uint x_bytes = from.n_rows * STEP_COLS * 2, x_step = lane - Ring::BANDS;
    const bool has_band = lane < from.n_bands, has_x = lane >= Ring::BANDS && x_step < Ring::STEPS;
    const uchar *band = from.weight + lane * from.band_bytes + ulong(from.first) * Ring::TILE_BYTES;
    const ushort *x = from.x + (ulong(from.first) + x_step) * from.x_rows * STEP_COLS;
    // `i` is the stage's first step.
    auto copy_weights = [&](uint i, uint stage) {
        const uint steps = min(Ring::STEPS, n_steps - i), bytes = steps * Ring::TILE_BYTES;
        if (lane == 0) barrier_expect(ring.filled(stage), steps * x_bytes + from.n_bands * bytes);
        __syncwarp();
        if (!has_band) return;
        copy_bulk(shared_address(ring.weights({0, stage, 0}, lane)), band + ulong(i) * Ring::TILE_BYTES, bytes, ring.filled(stage));
    };
    auto copy_x = [&](uint i, uint stage) {
        if (!has_x || i + x_step >= n_steps) return;
        copy_bulk(shared_address(ring.x({x_step, stage, 0})), x + ulong(i) * from.x_rows * STEP_COLS, x_bytes, ring.filled(stage));
    };
    for (uint i = 0; i < first_steps; i += Ring::STEPS) copy_weights(i, i / Ring::STEPS);
    wait_for_inputs();
    for (uint i = 0; i < first_steps; i += Ring::STEPS) copy_x(i, i / Ring::STEPS);
    typename Ring::Step step = {0, 0, 0};
    for (uint i = first_steps; i < n_steps; i += Ring::STEPS, step.next_stage()) {
        barrier_wait(ring.emptied(step.stage), step.turn);
        copy_weights(i, step.stage);
        copy_x(i, step.stage);
    }
}

// The sums of parts `first_part` and after, whose steps the ring brings, to `total`.
template <typename R>
FN void add_up_parts(const typename R::Ring &ring, uint n_tiles, uint first_part, uint end_part, float *total) {
    typename R::Ring::Step at = {0, 0, 0};
    for (uint part = first_part; part < end_part; part++) {
        float sums[R::SUMS];
        UNROLL
        for (uint i = 0; i < R::SUMS; i++) sums[i] = 0;
        const uint n = part_begin(n_tiles, part + 1) - part_begin(n_tiles, part);
        if (n > 0) multiply_ring(ring, n, at, sums);
        UNROLL
        for (uint i = 0; i < R::SUMS; i++) {
            float *to = total + i * R::WORKERS + threadIdx.x;
            *to = part == first_part ? sums[i] : *to + sums[i];
        }
    }
}

// This block's share of the cluster's work, to `total`, which all of the cluster may read then.
template <typename R>
FN void multiply_parts(const TileShape &shape, Streams from, float *total, const typename R::Ring &ring) {
    if (threadIdx.x == 0) {
        for (uint stage = 0; stage < R::Ring::STAGES; stage++) {
            barrier_init(ring.filled(stage), 1);
            barrier_init(ring.emptied(stage), R::WORKERS);
        }
        publish_barriers();
    }
    __syncthreads();
    const uint rank = blockIdx.x % shape.groups, parts = PARTS / shape.groups;
    from.first = part_begin(shape.n_tiles, rank * parts), from.end = part_begin(shape.n_tiles, (rank + 1) * parts);
    if (threadIdx.x >= R::WORKERS) fill_ring(ring, from);
    else add_up_parts<R>(ring, shape.n_tiles, rank * parts, (rank + 1) * parts, total);
    wait_for_inputs();
    __syncwarp();
    cluster_barrier();
}

// The cluster's sum of the block's `i`th.
FN float sum_of_blocks(const float *total, uint i, uint n_blocks) {
    const uint address = shared_address(total + i);
    float sums[PARTS];
    UNROLL
    for (uint rank = 0; rank < PARTS; rank++) sums[rank] = rank < n_blocks ? load_from_block(address, rank) : 0;
    float sum = 0;
    UNROLL
    for (uint rank = 0; rank < PARTS; rank++) sum += sums[rank];
    return sum;
}

FN uchar *ring_memory() { return shared_memory + (0u - shared_address(shared_memory)) % 1024; }

// One of the sums of the block: of which output and row, and where in `total`.
struct Place {
    uint output, row, at;
};

// Calls `write(place, read(place))` for this block's share of the sums of the first
// N_BANDS bands of all rows; some are read before the first is written.
template <typename R, uint N_BANDS, typename Value, typename Read, typename Write>
FN void for_share(uint n_blocks, uint n_rows, const Read &read, const Write &write) {
    const uint threads = 32 * N_BANDS, share = R::SUMS * threads / n_blocks, rank = blockIdx.x % n_blocks, batch = 4;
    if (threadIdx.x >= R::WORKERS) return;
    for (uint first = threadIdx.x; first < share; first += batch * R::WORKERS) {
        Place places[batch];
        Value values[batch];
        UNROLL
        for (uint i = 0; i < batch; i++) {
            const uint e = first + i * R::WORKERS, nth = (rank * share + e) / threads, thread = (rank * share + e) % threads;
            places[i].output = thread / 32 * 16 + thread % 32 / 4 + nth / 2 % 2 * 8;
            // A row that is not there stands for what is beyond the share.
            places[i].row = e < share ? nth / 4 * 8 + thread % 4 * 2 + nth % 2 : n_rows;
            places[i].at = nth * R::WORKERS + thread;
            if (places[i].row < n_rows) values[i] = read(places[i]);
        }
        UNROLL
        for (uint i = 0; i < batch; i++) {
            if (places[i].row < n_rows) write(places[i], values[i]);
        }
    }
}

// Of a block of TOKENS rows: what both kinds of kernels have in common.
template <typename R, uint TOKENS>
FN Streams streams(const TileShape &shape, const ushort *x, uint n_rows) {
    Streams from;
    from.band_bytes = ulong(shape.n_tiles) * R::Ring::TILE_BYTES;
    from.x = x + ulong(blockIdx.y) * TOKENS * STEP_COLS;
    from.x_rows = shape.x_rows, from.n_rows = n_rows;
    return from;
}

// 128 outputs of one of the maps.
template <typename Packing, uint TOKENS, bool ADD>
FN void rounded_linear(const TileArgs &args, const uint *inputs, const ushort *x, const Outputs &outputs) {
    typedef Rounded<Packing, TOKENS, MAP_BANDS> R;
    const uint n_blocks = args.shape.groups;
    const BlockRows rows(inputs, args.shape, TOKENS);
    if (rows.n == 0) return wait_for_inputs();
    allow_next();
    const Output output(args, outputs, blockIdx.x / n_blocks, R::BANDS);
    Streams from = streams<R, TOKENS>(args.shape, x, rows.n);
    from.weight = output.weight + output.band * from.band_bytes;
    from.n_bands = min(R::BANDS, (output.cols + 15) / 16 - output.band);
    const typename R::Ring ring = {ring_memory()};
    float *total = (float *)(ring.start + R::Ring::BYTES);
    multiply_parts<R>(args.shape, from, total, ring);
    auto read = [&](Place place) {
        const uint o = 16 * output.band + place.output;
        const float old = ADD && o < output.cols ? output.at(rows.first + place.row, o) : 0;
        return make_float2(sum_of_blocks(total, place.at, n_blocks), old);
    };
    auto write = [&](Place place, float2 value) {
        const uint o = 16 * output.band + place.output;
        if (o < output.cols) output.template write<ADD>(args, rows.first + place.row, o, value.x, value.y);
    };
    for_share<R, R::BANDS, float2>(n_blocks, rows.n, read, write);
    cluster_barrier();
}

// `out = act(gate) * up`, 128 outputs, as the next map's x: half of a block's bands are gate's, half up's.
template <typename Packing, uint TOKENS>
FN void rounded_gated(const GatedArgs &args, const uint *inputs, const ushort *x, const uchar *gate, const uchar *up,
                      ushort *out) {
    typedef Rounded<Packing, TOKENS, GATED_BANDS> R;
    const uint half = R::BANDS / 2, n_blocks = args.shape.groups;
    const BlockRows rows(inputs, args.shape, TOKENS);
    if (rows.n == 0) return wait_for_inputs();
    allow_next();
    const uint band = blockIdx.x / n_blocks * half, n_bands = (args.cols + 15) / 16, lane = threadIdx.x % 32;
    Streams from = streams<R, TOKENS>(args.shape, x, rows.n);
    // A lane's band: bands beyond the last are read as the last; their results are not kept.
    const uint own = min(band + lane % half, n_bands - 1);
    from.weight = (lane < half ? gate : up) + own * from.band_bytes - lane * from.band_bytes;
    from.n_bands = R::BANDS;
    const typename R::Ring ring = {ring_memory()};
    float *total = (float *)(ring.start + R::Ring::BYTES);
    multiply_parts<R>(args.shape, from, total, ring);
    const uint padded = (args.cols + STEP_COLS - 1) / STEP_COLS * STEP_COLS;
    auto read = [&](Place place) {
        return make_float2(sum_of_blocks(total, place.at, n_blocks),
                           sum_of_blocks(total + R::WORKERS / 2, place.at, n_blocks));
    };
    auto write = [&](Place place, float2 sums) {
        const uint o = 16 * band + place.output;
        const float value = o < args.cols ? activate(sums.x, args.gelu_tanh) * sums.y : 0;
        if (o < padded) out[prompt_x_at(blockIdx.y * TOKENS + place.row, o, args.shape.x_rows)] = float_to_bfloat(value);
    };
    for_share<R, half, float2>(n_blocks, rows.n, read, write);
    cluster_barrier();
}

#define ROUNDED_BODY(CALL) CALL
#else
#define ROUNDED_BODY(CALL) __trap()
#endif

#endif
