// Linear maps of generated rows in bfloat16 where there are warpgroups: sum over k of
// weight[n][k] * x[row][k] for 256 outputs n and up to 64 rows a block.
//
// Weights are the first operand and both stream through a ring, as for prompts
// (prompt_product.h). But columns are cut into the parts of generated_linear.h, and sums
// of each part begin at zero. Several blocks share the parts of the same outputs: each
// adds up its own in order, and then the blocks' sums are added in order. So a row's sum
// is taken in the same order whatever rows stand beside it, and however many.
#ifndef QUARREL_ROUNDED_H
#define QUARREL_ROUNDED_H

#include "activate.h"
#include "maps.h"
#include "rounded_exchange.h"

#define ROUNDED_BOUNDS __launch_bounds__(32 * BANDS, 1)

#if MATRIX_UNIT == 90

// Calls `write(place, sum, old(place))` for a thread's own sums, where no other block has a part of them.
template <typename R, typename Old, typename Write>
FN void for_own(uint n_rows, const float (&sums)[R::SUMS], const Old &old, const Write &write) {
    constexpr uint batch = 4;
    UNROLL
    for (uint first = 0; first < R::SUMS; first += batch) {
        Place places[batch];
        float values[batch];
        UNROLL
        for (uint i = 0; i < batch; i++) {
            places[i] = Place::of(first + i, threadIdx.x);
            values[i] = places[i].row < n_rows ? old(places[i]) : 0;
        }
        UNROLL
        for (uint i = 0; i < batch; i++) {
            if (places[i].row < n_rows) write(places[i], sums[first + i], values[i]);
        }
    }
}

// Where a thread's band begins in a block's map, of which bands beyond the last are read as the last: their results are not
// kept.
template <typename Packing> FN const uchar *own_band(const Output &output, const TileShape &shape) {
    const uint band = min(output.band + own_warp(), (output.cols + 15) / 16 - 1);
    return output.weight + ulong(band) * shape.n_tiles * Packing::BYTES;
}

// Adds up this block's part of the products of a map's outputs and its rows, if there are any; whether there are.
template <typename R, uint TOKENS>
FN bool multiply_map(const TileShape &shape, const ushort *x, const BlockRows &rows, const Output &output, float (&sums)[R::SUMS]) {
    if (rows.n == 0) {
        wait_for_inputs();
        return false;
    }
    allow_next();
    const uchar *band = own_band<typename R::Packing>(output, shape);
    multiply_parts<R, TOKENS>(shape, band, x, rows.n, shared_address(ring_memory()), sums);
    return true;
}

// 256 outputs of one of the maps.
template <typename Packing, uint TOKENS, bool ADD>
FN void rounded_linear(const TileArgs &args, const uint *inputs, const ushort *x, const Outputs &outputs,
                       float *partial, uint *arrived) {
    typedef Rounded<Packing, TOKENS> R;
    const BlockRows rows(inputs, args.shape, TOKENS);
    const Output output(args, outputs, blockIdx.x / PART_GROUPS, BANDS);
    float sums[R::SUMS];
    if (!multiply_map<R, TOKENS>(args.shape, x, rows, output, sums)) return;
    auto old = [&](Place place) {
        const uint o = 16 * output.band + place.output;
        return ADD && o < output.cols ? output.at(rows.first + place.row, o) : 0;
    };
    auto write = [&](Place place, float sum, float old) {
        const uint o = 16 * output.band + place.output;
        if (o < output.cols) output.template write<ADD>(args, rows.first + place.row, o, sum, old);
    };
    if (PART_GROUPS == 1) return for_own<R>(rows.n, sums, old, write);
    const float *total = show_sums<R>(partial, arrived, sums, [] {});
    for_share<R, BANDS>(rows.n, OfBlocks<R>{total}, old, write);
}

// Of a block that has all parts: up's warps give gate's their first rows, and get the others.
template <typename R, uint TOKENS>
FN void activate_own(const GatedArgs &args, uint n_rows, uint first, float *shared, const float (&sums)[R::SUMS],
                     ushort *out) {
    const uint half = R::SUMS / 2, lane = threadIdx.x % 32, thread = threadIdx.x % (R::THREADS / 2);
    const bool is_up = threadIdx.x >= R::THREADS / 2;
    const uint padded = (args.cols + STEP_COLS - 1) / STEP_COLS * STEP_COLS;
    __syncthreads();
    UNROLL
    for (uint i = 0; i < half; i++) shared[i * R::THREADS + threadIdx.x] = is_up ? sums[i] : sums[half + i];
    __syncthreads();
    UNROLL
    for (uint i = 0; i < half; i += 2) {
        float values[2];
        const uint nth = i + (is_up ? half : 0), output = first + thread / 32 * 16 + lane / 4 + nth / 2 % 2 * 8;
        UNROLL
        for (uint k = 0; k < 2; k++) {
            const float own = is_up ? sums[half + i + k] : sums[i + k];
            const float other = shared[(i + k) * R::THREADS + (threadIdx.x ^ (R::THREADS / 2))];
            const float value = activate(is_up ? other : own, args.gelu_tanh) * (is_up ? own : other);
            values[k] = output < args.cols ? value : 0;
        }
        // Of two outputs side by side in memory one's lanes take the first row, the other's the second.
        const uint second = lane / 8 % 2;
        const float given = __shfl_xor_sync(0xffffffffu, second ? values[0] : values[1], 8);
        const uint row = nth / 4 * 8 + lane % 4 * 2 + second, o = output - 2 * second;
        const uint pair = second ? pack_bf16(given, values[1]) : pack_bf16(values[0], given);
        if (row >= n_rows || o >= padded) continue;
        *(uint *)(out + prompt_x_at(blockIdx.y * TOKENS + row, o, args.shape.x_rows)) = pair;
    }
}

// `out = act(gate) * up`, 128 outputs, as the next map's x: half of a block's bands are gate's, half up's.
template <typename Packing, uint TOKENS>
FN void rounded_gated(const GatedArgs &args, const uint *inputs, const ushort *x, const uchar *gate, const uchar *up,
                      ushort *out, float *partial, uint *arrived) {
    typedef Rounded<Packing, TOKENS> R;
    const uint half = BANDS / 2;
    const BlockRows rows(inputs, args.shape, TOKENS);
    if (rows.n == 0) return wait_for_inputs();
    allow_next();
    const uint band = blockIdx.x / PART_GROUPS * half, n_bands = (args.cols + 15) / 16;
    // Bands beyond the last are read as the last; their results are not kept.
    const uint warp = own_warp(), own = min(band + warp % half, n_bands - 1);
    float sums[R::SUMS];
    uchar *memory = ring_memory();
    const uchar *weight = (warp < half ? gate : up) + ulong(own) * args.shape.n_tiles * Packing::BYTES;
    multiply_parts<R, TOKENS>(args.shape, weight, x, rows.n, shared_address(memory), sums);
    if (PART_GROUPS == 1) return activate_own<R, TOKENS>(args, rows.n, 16 * band, (float *)memory, sums, out);
    const float *total = show_sums<R>(partial, arrived, sums, [] {});
    const uint padded = (args.cols + STEP_COLS - 1) / STEP_COLS * STEP_COLS;
    // Of gate; up's are read with them.
    auto add = [&](float (&sums)[Chunk<R>::N], const Chunk<R> &chunk) {
        chunk.add(sums, total);
        float up[Chunk<R>::N];
        Chunk<R>{chunk.first, chunk.thread + R::THREADS / 2}.add(up, total);
        UNROLL
        for (uint i = 0; i < Chunk<R>::N; i++) sums[i] = activate(sums[i], args.gelu_tanh) * up[i];
    };
    auto write = [&](Place place, float value, float) {
        const uint o = 16 * band + place.output;
        if (o >= args.cols) value = 0;
        if (o < padded) out[prompt_x_at(blockIdx.y * TOKENS + place.row, o, args.shape.x_rows)] = float_to_bfloat(value);
    };
    for_share<R, half>(rows.n, add, [](Place) { return 0.0f; }, write);
}

#define ROUNDED_BODY(CALL) CALL
#else
#define ROUNDED_BODY(CALL) __trap()
#endif

// For `OF_ROWS`.
#define ROUNDED_TOKENS(KERNELS, OP, PACKING, NAME)                       \
    KERNELS(OP, PACKING, NAME, 8) KERNELS(OP, PACKING, NAME, 16) \
    KERNELS(OP, PACKING, NAME, 32) KERNELS(OP, PACKING, NAME, 64)

#endif
