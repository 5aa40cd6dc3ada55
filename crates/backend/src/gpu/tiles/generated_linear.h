// Linear maps of generated rows: a band of 16 outputs a block of threads.
//
// Each of the block's eight SIMD-groups takes an eighth of the columns and all
// rows; their sums are added in order. So a row's sum is taken in the same
// order whatever rows stand beside it.
#ifndef QUARREL_GENERATED_LINEAR_H
#define QUARREL_GENERATED_LINEAR_H

#include "activate.h"
#include "tiles.h"

#define PARTS 8
// Tiles whose loads are under way together.
#define AHEAD 4
// Distance between rows of sums in shared memory, without bank conflicts.
#define SUMS_STRIDE 20
#define SUMS(ROW_TILES) (8 * (ROW_TILES) * SUMS_STRIDE)

// The sums of one part of the columns of one band, for rows from `row` on.
template <typename Tile, uint ROW_TILES>
FN void add_part(const TileArgs &args, const uint *inputs, const uchar *band, uint part, const uchar *x,
                 float (&acc)[ROW_TILES][4]) {
    const uint lane = threadIdx.x % 32;
    const uint first = args.n_tiles * part / PARTS, end = args.n_tiles * (part + 1) / PARTS;
    Tile tiles[AHEAD];
    UNROLL
    for (uint u = 0; u < AHEAD; u++) {
        if (first + u < end) tiles[u].load(band + ulong(first + u) * Tile::BYTES, lane);
    }
    // Weights were there before the step began.
    wait_for_inputs();
    const uint n_rows = inputs[args.end_at] - inputs[args.first_at];
    const uint row = blockIdx.y * 8 * ROW_TILES;
    if (row >= n_rows) return;
    x += ulong(row / 8) * args.n_tiles * Tile::Rows::BYTES;
    for (uint i = first; i < end; i += AHEAD) {
        if (i != first) {
            UNROLL
            for (uint u = 0; u < AHEAD; u++) {
                if (i + u < end) tiles[u].load(band + ulong(i + u) * Tile::BYTES, lane);
            }
        }
        UNROLL
        for (uint u = 0; u < AHEAD; u++) {
            if (i + u >= end) break;
            UNROLL
            for (uint r = 0; r < ROW_TILES; r++) {
                if (row + 8 * r >= n_rows) break;
                typename Tile::Rows rows;
                rows.template load<Tile::AFFINE>(x + (ulong(r) * args.n_tiles + i + u) * Tile::Rows::BYTES,
                                                 n_rows - row - 8 * r, lane);
                tiles[u].add(acc[r], rows);
            }
        }
    }
}

// Leaves the lane's sums where the block adds them up.
template <uint ROW_TILES> FN void leave_sums(float *sums, const float (&acc)[ROW_TILES][4]) {
    const uint g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    UNROLL
    for (uint r = 0; r < ROW_TILES; r++) {
        UNROLL
        for (uint i = 0; i < 4; i++) sums[(8 * r + 2 * t + i % 2) * SUMS_STRIDE + g + i / 2 * 8] = acc[r][i];
    }
}

// The sum of all parts, for output `o` of the band and row `r` of the block.
template <uint ROW_TILES> FN float sum_of(const float *sums, uint o, uint r) {
    float sum = 0;
    UNROLL
    for (uint part = 0; part < PARTS; part++) sum += sums[part * SUMS(ROW_TILES) + r * SUMS_STRIDE + o];
    return sum;
}

// The block's rows that are there.
FN uint rows_here(const TileArgs &args, const uint *inputs, uint most) {
    const uint n_rows = inputs[args.end_at] - inputs[args.first_at], row = blockIdx.y * most;
    return row >= n_rows ? 0 : min(most, n_rows - row);
}

// One map of several that share their input, and what becomes of its sums.
struct Output {
    const uchar *weight;
    const float *bias;
    float *out;
    uint cols;
    uint has_bias;
};

// `out = cap(scale * (sum + bias))`, a cap of 0 is none; or, to ADD, `out += scale * (sum + bias)`.
template <typename Tile, uint ROW_TILES, bool ADD>
FN void generated_linear(const TileArgs &args, const uint *inputs, const uchar *x, Output output, uint band,
                         float *sums) {
    float acc[ROW_TILES][4] = {};
    const uint part = threadIdx.x / 32;
    const uchar *weight = output.weight + ulong(band) * args.n_tiles * Tile::BYTES;
    add_part<Tile, ROW_TILES>(args, inputs, weight, part, x, acc);
    allow_next();
    const uint n_rows = rows_here(args, inputs, 8 * ROW_TILES);
    if (n_rows == 0) return;
    leave_sums<ROW_TILES>(sums + part * SUMS(ROW_TILES), acc);
    group_barrier();
    const uint first_row = inputs[args.first_at] + blockIdx.y * 8 * ROW_TILES;
    for (uint i = threadIdx.x; i < 16 * n_rows; i += blockDim.x) {
        const uint o = 16 * band + i % 16, r = i / 16;
        if (o >= output.cols) continue;
        float value = sum_of<ROW_TILES>(sums, i % 16, r);
        if (output.has_bias) value += output.bias[o];
        float *to = output.out + ulong(first_row + r) * output.cols + o;
        if (ADD) {
            *to = fmaf(args.scale, value, *to);
        } else {
            value = args.scale * value;
            *to = args.softcap > 0 ? args.softcap * exact_tanh(value / args.softcap) : value;
        }
    }
}

// `out = act(gate) * up`: the block's second eight SIMD-groups do the band of the second weight.
template <typename Tile, uint ROW_TILES>
FN void generated_gated(const GatedArgs &args, const uint *inputs, const uchar *x, const uchar *gate,
                        const uchar *up, float *out, float *sums) {
    float acc[ROW_TILES][4] = {};
    const uint simdgroup = threadIdx.x / 32, part = simdgroup % PARTS, band = blockIdx.x;
    const TileArgs shape = {args.first_at, args.end_at, args.n_tiles};
    const uchar *weight = (simdgroup < PARTS ? gate : up) + ulong(band) * args.n_tiles * Tile::BYTES;
    add_part<Tile, ROW_TILES>(shape, inputs, weight, part, x, acc);
    allow_next();
    const uint n_rows = rows_here(shape, inputs, 8 * ROW_TILES);
    if (n_rows == 0) return;
    leave_sums<ROW_TILES>(sums + simdgroup * SUMS(ROW_TILES), acc);
    group_barrier();
    const uint first_row = inputs[args.first_at] + blockIdx.y * 8 * ROW_TILES;
    for (uint i = threadIdx.x; i < 16 * n_rows; i += blockDim.x) {
        const uint o = 16 * band + i % 16, r = i / 16;
        if (o >= args.cols) continue;
        const float g = sum_of<ROW_TILES>(sums, i % 16, r);
        const float u = sum_of<ROW_TILES>(sums + PARTS * SUMS(ROW_TILES), i % 16, r);
        out[ulong(first_row + r) * args.cols + o] = activate(g, args.gelu_tanh) * u;
    }
}

#endif
