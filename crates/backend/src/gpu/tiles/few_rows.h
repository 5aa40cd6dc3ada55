// Linear maps of up to eight generated rows. A block keeps the rows in shared
// memory and does one band after the other, so that weights never stop coming.
// A single row it converts itself, which saves a launch and takes a step as long.
#ifndef QUARREL_FEW_ROWS_H
#define QUARREL_FEW_ROWS_H

#include "generated_linear.h"

// The sizes of a kernel; `kernel.rs` counts as this does.
template <typename T, bool SINGLE> struct FewRows {
    typedef T Tile;
    typedef typename Tile::template Rows<SINGLE> Rows;
    enum {
        MOST = SINGLE ? 1 : 8,
        // Some two KiB.
        CHUNK = 2304 / Tile::BYTES > 1 ? 2304 / Tile::BYTES : 1,
        SLOT_BYTES = CHUNK * Tile::BYTES,
        SUMS = 8 * SUMS_STRIDE
    };
    typedef ::Ring<SLOT_BYTES, SLOTS> Ring;
};

// The weights of this SIMD-group's part of one band after the other. `Weights`
// says where a block's nth band begins, and null behind the last.
template <typename F, typename Weights> struct Stream {
    typename F::Ring ring;
    Weights weights;
    Part part;
    const uchar *next;
    uint nth, tile, asked;

    MEMBER Stream(uchar *memory, Weights weights, uint n_tiles)
        : weights(weights), part(n_tiles), nth(0), tile(0), asked(0) {
        ring.begin(memory);
        next = part.n > 0 ? weights.at(0) : 0;
        for (uint i = 0; i < SLOTS; i++) ask();
    }

    MEMBER void ask() {
        if (next) {
            const uint tiles = min(uint(F::CHUNK), part.n - tile);
            ring.copy_together(asked, next + ulong(part.first + tile) * F::Tile::BYTES, tiles * F::Tile::BYTES);
            tile += tiles;
            if (tile == part.n) tile = 0, next = weights.at(++nth);
        }
        ring.close();
        asked++;
    }
};

// Eight rows, as a conversion before left them.
template <typename F> struct ConvertedRows {
    const uchar *x;
    MEMBER void fetch(const uint *, const TileShape &shape, uchar *to) const {
        const uint bytes = shape.n_tiles * F::Rows::BYTES;
        const uchar *from = x + ulong(blockIdx.y) * bytes;
        for (uint i = 16 * threadIdx.x; i < bytes; i += 16 * blockDim.x) *(uint4 *)(to + i) = load_quad(from + i);
    }
};

// A single row, as a kernel before left it.
template <typename F> struct ConvertedRow {
    const uchar *x;
    MEMBER void fetch(const uint *, const TileShape &shape, uchar *to) const {
        for (uint i = 16 * threadIdx.x; i < shape.n_tiles * F::Rows::SHARED_BYTES; i += 16 * blockDim.x) {
            *(uint4 *)(to + i) = load_quad(x + i);
        }
    }
};

// A single row as it is, which may have to be normalised.
template <typename F> struct PlainRow {
    const float *x, *norm;
    MEMBER void fetch(const uint *inputs, const TileShape &shape, uchar *to) const {
        __shared__ float partial[32];
        const uint row = inputs[shape.first_at] + blockIdx.y;
        const float *from = x + ulong(shape.gather_at ? inputs[shape.gather_at + row] : row) * shape.cols;
        const float *weight = shape.has_norm ? norm : 0;
        const float scale = weight ? norm_scale(from, shape.cols, shape.eps, partial) : 1;
        for_elements(from, weight, scale, shape.cols, 64 * shape.n_tiles, threadIdx.x, blockDim.x,
                     [&](uint i, float4 v) { F::Rows::put(to + i / 64 * F::Rows::SHARED_BYTES, i, v); });
    }
};

// Adds one piece of weights.
template <typename F>
FN void add_tiles(float (&acc)[4], const uchar *weights, const uchar *rows, uint n, uint lane) {
    UNROLL
    for (uint u = 0; u < F::CHUNK; u++) {
        if (u >= n) break;
        typename F::Tile tile;
        typename F::Rows x;
        tile.load(weights + u * F::Tile::BYTES, lane);
        x.template load<F::Tile::AFFINE>(rows + u * F::Rows::SHARED_BYTES, lane);
        tile.add(acc, x);
    }
}

// Does the block's bands; `write(sums, nth, rows)` takes the sums of each.
template <typename F, typename Input, typename Weights, typename Write>
FN void multiply_few(const uint *inputs, const TileShape &shape, Input input, Weights weights, Write write) {
    const uint simdgroup = threadIdx.x / 32, lane = threadIdx.x % 32, simdgroups = blockDim.x / 32;
    float *sums = (float *)(shared_memory + simdgroups * F::Ring::BYTES);
    uchar *rows = (uchar *)(sums + 2 * simdgroups * F::SUMS);
    Stream<F, Weights> stream(shared_memory + simdgroup * F::Ring::BYTES, weights, shape.n_tiles);
    allow_next();
    wait_for_inputs();
    const BlockRows here(inputs, shape, F::MOST);
    // A row that is not there has nothing to read, and nobody wants its sums.
    if (here.n > 0) input.fetch(inputs, shape, rows);
    group_barrier();
    rows += stream.part.first * F::Rows::SHARED_BYTES;
    uint piece = 0;
    for (uint nth = 0; weights.at(nth); nth++) {
        float acc[1][4] = {};
        for (uint tile = 0; tile < stream.part.n; tile += F::CHUNK, piece++) {
            const uchar *slot = stream.ring.wait(piece);
            const uint n = stream.part.n - tile;
            // Whole pieces without questions.
            if (n >= F::CHUNK) add_tiles<F>(acc[0], slot, rows + tile * F::Rows::SHARED_BYTES, F::CHUNK, lane);
            else add_tiles<F>(acc[0], slot, rows + tile * F::Rows::SHARED_BYTES, n, lane);
            __syncwarp();
            stream.ask();
        }
        // Two sets of sums in turn: one is written while the other may still be read.
        float *set = sums + nth % 2 * simdgroups * F::SUMS;
        leave_sums<1>(set + simdgroup * F::SUMS, acc);
        group_barrier();
        write(set, nth, here);
    }
}

// Where the bands of up to three maps begin.
template <typename F> struct MapWeights {
    const TileArgs &args;
    const Outputs &outputs;
    static MEMBER uint block(uint nth) { return blockIdx.x + nth * gridDim.x; }
    MEMBER const uchar *at(uint nth) const {
        const uint block = MapWeights::block(nth);
        if (block >= args.n_blocks) return 0;
        const Output output(args, outputs, block, 1);
        return output.weight + ulong(output.band) * args.shape.n_tiles * F::Tile::BYTES;
    }
};

template <typename F, bool ADD> struct WriteMap {
    const TileArgs &args;
    const Outputs &outputs;
    MEMBER void operator()(const float *sums, uint nth, BlockRows rows) const {
        if (threadIdx.x >= 16 * rows.n) return;
        const Output output(args, outputs, MapWeights<F>::block(nth), 1);
        const uint at = threadIdx.x % 16, r = threadIdx.x / 16, o = 16 * output.band + at;
        if (o < output.cols) output.write<ADD>(args, rows.first + r, o, F::Tile::unit() * sum_of<1>(sums, at, r, F::Tile::groups(args.shape)));
    }
};

// What becomes of results: `gated.rs` counts as this does.
#define FLOATS 0
#define QUANTISED 1
#define ROUNDED 2
#define PROMPT 3

// The second eight SIMD-groups do the bands of the second weight. Where results are quantised
// bands are done in pairs, which make up a block of 32 columns.
template <typename F> struct GatedWeights {
    const GatedArgs &args;
    const uchar *gate, *up;
    static MEMBER uint band(const GatedArgs &args, uint nth) {
        return args.results == QUANTISED ? 2 * (blockIdx.x + nth / 2 * gridDim.x) + nth % 2 : blockIdx.x + nth * gridDim.x;
    }
    MEMBER const uchar *at(uint nth) const {
        const uint band = GatedWeights::band(args, nth);
        if (16 * band >= args.cols) return 0;
        return (threadIdx.x / 32 < PARTS ? gate : up) + ulong(band) * args.shape.n_tiles * F::Tile::BYTES;
    }
};

// `out = act(gate) * up`, as floats or as the next map takes them, whole tiles of them.
template <typename F> struct WriteGated {
    enum { SINGLE = F::MOST == 1 };
    const GatedArgs &args;
    uchar *out;
    // That of the first band of a pair.
    float first;
    MEMBER WriteGated(const GatedArgs &args, uchar *out) : args(args), out(out), first(0) {}

    MEMBER void operator()(const float *sums, uint nth, BlockRows rows) {
        if (threadIdx.x >= 16 * rows.n) return;
        const uint at = threadIdx.x % 16, r = threadIdx.x / 16, band = GatedWeights<F>::band(args, nth), o = 16 * band + at;
        const uint groups = F::Tile::groups(args.shape);
        const float unit = F::Tile::unit();
        const float g = unit * sum_of<1>(sums, at, r, groups);
        const float u = unit * sum_of<1>(sums + PARTS * F::SUMS, at, r, groups);
        const float value = activate(g, args.gelu_tanh) * u;
        switch (args.results) {
        case FLOATS:
            if (o < args.cols) ((float *)out)[ulong(rows.first + r) * args.cols + o] = value;
            break;
        case QUANTISED:
            // Both bands of a pair make up a block.
            if (nth % 2 == 0) first = value;
            else quantise_pair<SINGLE>(tile(o, QuantisedRows<SINGLE>::SHARED_BYTES), r, o / 32 % 2, first, value);
            break;
        case ROUNDED:
            *(ushort *)(tile(o, SplitRows<SINGLE, 1>::SHARED_BYTES) + SplitRows<SINGLE, 1>::at(r, o % 64)) = float_to_bfloat(value);
            break;
        case PROMPT:
            ((ushort *)out)[prompt_x_at(blockIdx.y * F::MOST + r, o, args.shape.x_rows)] = float_to_bfloat(value);
        }
    }

    // The next map's tile of these rows that has column `o`.
    MEMBER uchar *tile(uint o, uint bytes) const { return out + (ulong(blockIdx.y) * (args.cols / 64) + o / 64) * bytes; }
};

#endif
