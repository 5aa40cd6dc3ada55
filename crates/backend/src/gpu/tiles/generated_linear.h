// Linear maps of generated rows: some bands of 16 outputs a block of threads.
//
// Each of eight SIMD-groups takes an eighth of the columns of all these bands,
// for all the block's rows; their sums are added in order. So a row's sum is
// taken in the same order whatever rows stand beside it.
#ifndef QUARREL_GENERATED_LINEAR_H
#define QUARREL_GENERATED_LINEAR_H

#include "activate.h"
#include "maps.h"
#include "tiles.h"

#define PARTS 8
// Distance between rows of sums in shared memory, without bank conflicts.
#define SUMS_STRIDE 20

// The sizes of a kernel: up to N_ROWS rows by N_BANDS bands. `linear.rs` counts as this does.
template <typename T, uint N_ROWS, uint N_BANDS> struct Sizes {
    typedef T Tile;
    typedef typename Tile::template Rows<N_ROWS> Rows;
    enum {
        ROW_TILES = Rows::ROW_TILES,
        MOST_ROWS = N_ROWS,
        BANDS = N_BANDS,
        // Some two KiB a piece.
        CHUNK = BANDS == 1 ? (2304 / Tile::BYTES > 1 ? 2304 / Tile::BYTES : 1) : 1,
        SLOTS = 2,
        // Floats of one SIMD-group's sums for eight rows.
        SUMS = 8 * BANDS * SUMS_STRIDE
    };
    typedef ::Ring<Tile, Rows, BANDS, CHUNK, SLOTS> Ring;
    typedef float Acc[ROW_TILES][BANDS][4];
};

// What a block does: rows from `row` on of those there are, and how many of them.
struct BlockRows {
    uint first, n;
    MEMBER BlockRows(const uint *inputs, uint first_at, uint end_at, uint most) {
        const uint start = inputs[first_at], n_rows = inputs[end_at] - start, row = blockIdx.y * most;
        first = start + row;
        n = row >= n_rows ? 0 : min(most, n_rows - row);
    }
};

// Sums of one part of the columns.
template <typename S> FN void add_part(const typename S::Ring &ring, uint n_rows, typename S::Acc &acc) {
    typedef typename S::Tile Tile;
    typedef typename S::Rows Rows;
    const uint lane = threadIdx.x % 32;
    for (uint piece = 0; piece * S::CHUNK < ring.n_tiles; piece++) {
        const uchar *weights = ring.wait(piece), *rows_at = weights + S::Ring::WEIGHT_BYTES;
        UNROLL
        for (uint u = 0; u < S::CHUNK; u++) {
            if (piece * S::CHUNK + u >= ring.n_tiles) break;
            Tile tiles[S::BANDS];
            UNROLL
            for (uint band = 0; band < S::BANDS; band++) {
                tiles[band].load(weights + (band * S::CHUNK + u) * Tile::BYTES, lane);
            }
            UNROLL
            for (uint r = 0; r < S::ROW_TILES; r++) {
                if (8 * r >= n_rows) break;
                Rows rows;
                rows.template load<Tile::AFFINE>(rows_at + (r * S::CHUNK + u) * Rows::COPIED_BYTES, n_rows - 8 * r, lane);
                UNROLL
                for (uint band = 0; band < S::BANDS; band++) tiles[band].add(acc[r][band], rows);
            }
        }
        __syncwarp();
        ring.ask_weights(piece + S::SLOTS);
        ring.ask_rows(piece + S::SLOTS);
    }
}

// The part of `band` and those after it that this SIMD-group does.
template <typename S>
FN void multiply(const uint *inputs, uint first_at, uint end_at, uint n_tiles, const uchar *weight, uint band,
                 uint n_bands, const uchar *x, uchar *memory, typename S::Acc &acc) {
    const uint simdgroup = threadIdx.x / 32, part = simdgroup % PARTS;
    const uint first = n_tiles * part / PARTS, end = n_tiles * (part + 1) / PARTS;
    typename S::Ring ring;
    ring.n_tiles = end - first;
    ring.band_stride = ulong(n_tiles) * S::Tile::BYTES;
    ring.n_bands = min(uint(S::BANDS), n_bands - band);
    ring.weights = weight + band * ring.band_stride + first * S::Tile::BYTES;
    ring.row_stride = n_tiles * S::Rows::BYTES;
    ring.rows = x + ulong(blockIdx.y) * S::ROW_TILES * ring.row_stride + first * S::Rows::BYTES;
    ring.begin(memory + simdgroup * S::Ring::BYTES);
    for (uint piece = 0; piece < S::SLOTS; piece++) ring.ask_weights(piece);
    allow_next();
    wait_for_inputs();
    const BlockRows rows(inputs, first_at, end_at, S::MOST_ROWS);
    // At least one: no copy may be under way when the block ends.
    ring.n_row_tiles = max(1u, (rows.n + 7) / 8);
    for (uint piece = 0; piece < S::SLOTS; piece++) ring.ask_rows(piece);
    add_part<S>(ring, rows.n, acc);
}

// Leaves the lane's sums of eight rows where the block adds them up.
template <typename S> FN void leave_sums(float *sums, const float (&acc)[S::BANDS][4]) {
    const uint g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    UNROLL
    for (uint band = 0; band < S::BANDS; band++) {
        UNROLL
        for (uint i = 0; i < 4; i++) {
            sums[(8 * band + 2 * t + i % 2) * SUMS_STRIDE + g + i / 2 * 8] = acc[band][i];
        }
    }
}

// The sum of all parts, for output `o` of the block's and row `r` of eight.
template <typename S> FN float sum_of(const float *sums, uint o, uint r) {
    float sum = 0;
    UNROLL
    for (uint part = 0; part < PARTS; part++) sum += sums[part * S::SUMS + (8 * (o / 16) + r) * SUMS_STRIDE + o % 16];
    return sum;
}

// `out = cap(scale * (sum + bias))`, a cap of 0 is none; or, to ADD, `out += scale * (sum + bias)`.
template <typename S, bool ADD>
FN void generated_linear(const TileArgs &args, const uint *inputs, const uchar *x, const Map &map, uint band,
                         uchar *memory) {
    typename S::Acc acc = {};
    const uint n_bands = (map.cols + 15) / 16;
    multiply<S>(inputs, args.first_at, args.end_at, args.n_tiles, map.weight, band, n_bands, x, memory, acc);
    const BlockRows rows(inputs, args.first_at, args.end_at, S::MOST_ROWS);
    float *sums = (float *)(memory + PARTS * S::Ring::BYTES);
    UNROLL
    for (uint tile = 0; tile < S::ROW_TILES; tile++) {
        if (8 * tile >= rows.n) break;
        leave_sums<S>(sums + threadIdx.x / 32 * S::SUMS, acc[tile]);
        group_barrier();
        const uint n = min(8u, rows.n - 8 * tile);
        for (uint i = threadIdx.x; i < 16 * S::BANDS * n; i += blockDim.x) {
            const uint at = i % (16 * S::BANDS), r = i / (16 * S::BANDS), o = 16 * band + at;
            if (o >= map.cols) continue;
            float value = sum_of<S>(sums, at, r);
            if (map.has_bias) value += map.bias[o];
            float *to = map.out + ulong(rows.first + 8 * tile + r) * map.cols + o;
            if (ADD) {
                *to = fmaf(args.scale, value, *to);
            } else {
                value = args.scale * value;
                *to = args.softcap > 0 ? args.softcap * exact_tanh(value / args.softcap) : value;
            }
        }
        group_barrier();
    }
}

// `out = act(gate) * up`: the block's second eight SIMD-groups do the bands of the second weight.
template <typename S>
FN void generated_gated(const GatedArgs &args, const uint *inputs, const uchar *x, const uchar *gate,
                        const uchar *up, float *out, uchar *memory) {
    typename S::Acc acc = {};
    const uint band = blockIdx.x * S::BANDS, n_bands = (args.cols + 15) / 16;
    multiply<S>(inputs, args.first_at, args.end_at, args.n_tiles, threadIdx.x / 32 < PARTS ? gate : up, band,
                      n_bands, x, memory, acc);
    const BlockRows rows(inputs, args.first_at, args.end_at, S::MOST_ROWS);
    float *sums = (float *)(memory + 2 * PARTS * S::Ring::BYTES);
    UNROLL
    for (uint tile = 0; tile < S::ROW_TILES; tile++) {
        if (8 * tile >= rows.n) break;
        leave_sums<S>(sums + threadIdx.x / 32 * S::SUMS, acc[tile]);
        group_barrier();
        const uint n = min(8u, rows.n - 8 * tile);
        for (uint i = threadIdx.x; i < 16 * S::BANDS * n; i += blockDim.x) {
            const uint at = i % (16 * S::BANDS), r = i / (16 * S::BANDS), o = 16 * band + at;
            if (o >= args.cols) continue;
            const float g = sum_of<S>(sums, at, r), u = sum_of<S>(sums + PARTS * S::SUMS, at, r);
            out[ulong(rows.first + 8 * tile + r) * args.cols + o] = activate(g, args.gelu_tanh) * u;
        }
        group_barrier();
    }
}

#endif
