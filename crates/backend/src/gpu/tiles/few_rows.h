// Linear maps of up to eight generated rows. A block keeps the rows in shared
// memory and does one band after the other, so that weights never stop coming.
// Some single rows it converts itself, which saves a launch.
//
// What needs nothing of other kernels is done before waiting for them: what comes then is what a
// step's time is made of. Of eight rows a block has two teams where memory allows it, which share the rows there.
#ifndef QUARREL_FEW_ROWS_H
#define QUARREL_FEW_ROWS_H

#include "generated_linear.h"
#include "row.h"

// The sizes of a kernel; `kernel.rs` counts as this does.
template <typename T, bool SINGLE> struct FewRows {
    typedef T Tile;
    typedef typename Tile::template Rows<SINGLE> Rows;
    enum {
        MOST = SINGLE ? 1 : 8,
        // Some two KiB.
        CHUNK = 2304 / Tile::BYTES > 1 ? 2304 / Tile::BYTES : 1,
        SLOT_BYTES = CHUNK * Tile::BYTES,
        SUMS = SINGLE ? 16 : 8 * SUMS_STRIDE
    };
    typedef ::Ring<SLOT_BYTES, SLOTS> Ring;

    // Leaves a SIMD-group's sums of a band where its team adds them up.
    static MEMBER void leave(float *sums, const float (&acc)[1][4]) {
        const uint lane = threadIdx.x % 32;
        if (!SINGLE) leave_sums<1>(sums, acc);
        else if (lane % 4 == 0) sums[lane / 4] = acc[0][0], sums[lane / 4 + 8] = acc[0][2];
    }

    // The sum of all parts of output `o` of a band for row `r`.
    static MEMBER float total(const float *sums, uint o, uint r, const TileShape &shape) {
        const uint stride = SINGLE ? 16 : 8 * SUMS_STRIDE;
        return Tile::unit() * sum_of_parts(sums + (SINGLE ? o : r * SUMS_STRIDE + o), stride, Tile::groups(shape));
    }
};

// The weights of this SIMD-group's part of one band after the other. `Weights`
// says where a block's nth band begins, and null behind the last.
template <typename F, typename Weights> struct Stream {
    typename F::Ring ring;
    Weights weights;
    Columns part;
    const uchar *next;
    uint nth, tile, asked;

    MEMBER Stream(uchar *memory, Weights weights, uint n_tiles)
        : weights(weights), part(n_tiles), nth(0), tile(0), asked(0) {
        ring.begin(memory);
        next = part.n > 0 ? weights.at(0, team()) : 0;
        for (uint i = 0; i < SLOTS; i++) ask();
    }

    MEMBER void ask() {
        if (next) {
            const uint tiles = min(uint(F::CHUNK), part.n - tile);
            ring.copy_together(asked, next + ulong(part.first + tile) * F::Tile::BYTES, tiles * F::Tile::BYTES);
            tile += tiles;
            if (tile == part.n) tile = 0, next = weights.at(++nth, team());
        }
        ring.close();
        asked++;
    }
};

// Rows as a kernel before left them: eight, or a single one.
template <typename F> struct ConvertedRows {
    const uchar *x;
    MEMBER void begin(const uint *, const TileShape &, BlockRows) const { begin_copy(); }
    MEMBER void fetch(const TileShape &shape, uchar *to) const {
        const uint bytes = shape.n_tiles * F::Rows::SHARED_BYTES;
        copy_to_block(to, x + ulong(blockIdx.y) * bytes, bytes);
    }
};

// A single row as it is, which may have to be normalised.
template <typename F> struct PlainRow {
    const float *x, *norm;
    RowNorm<ROW_QUADS> weights;
    MEMBER void begin(const uint *inputs, const TileShape &shape, BlockRows here) {
        if (!shape.has_norm) norm = 0;
        if (here.n == 0) return;
        x += ulong(shape.gather_at ? inputs[shape.gather_at + here.first] : here.first) * shape.cols;
        weights.load(norm, shape.cols);
    }
    MEMBER void fetch(const TileShape &shape, uchar *to) const {
        __shared__ float partial[32];
        weights.apply(x, norm, shape.cols, 64 * shape.n_tiles, shape.eps, partial,
                      [&](uint i, float4 v) { F::Rows::put(to + i / 64 * F::Rows::SHARED_BYTES, i, v); });
        group_barrier();
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

// Does the block's bands, each by a team or by both; `write` takes the sums of each, and may `prepare` what needs
// nothing of other kernels, and `begin` a band before it is multiplied. `find` says which rows the block has.
template <typename F, typename Input, typename Weights, typename Write, typename Find>
FN void multiply_few(const uint *inputs, const TileShape &shape, Input input, Weights weights, Write write, const Find &find) {
    const uint simdgroup = threadIdx.x / 32, lane = threadIdx.x % 32, simdgroups = n_threads() / 32;
    float *sums = (float *)(shared_memory + simdgroups * F::Ring::BYTES);
    uchar *rows = (uchar *)(sums + 2 * simdgroups * F::SUMS);
    Stream<F, Weights> stream(shared_memory + simdgroup * F::Ring::BYTES, weights, shape.n_tiles);
    const BlockRows here = find();
    input.begin(inputs, shape, here);
    write.prepare(here);
    allow_next();
    wait_for_inputs();
    // A row that is not there has nothing to read, and nobody wants its sums.
    if (here.n > 0) input.fetch(shape, rows);
    rows += stream.part.first * F::Rows::SHARED_BYTES;
    uint piece = 0;
    for (uint nth = 0; weights.at(nth, team()); nth++) {
        write.begin(nth, here);
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
        F::leave(set + simdgroup * F::SUMS, acc);
        if (Weights::ONE_TEAM) team_barrier();
        else group_barrier();
        write(set, nth, here);
    }
}

template <typename F, typename Input, typename Weights, typename Write>
FN void multiply_few(const uint *inputs, const TileShape &shape, Input input, Weights weights, Write write) {
    multiply_few<F>(inputs, shape, input, weights, write, [&] { return BlockRows(inputs, shape, F::MOST); });
}

// Where the bands of up to three maps begin; teams take them in turn.
template <typename F> struct MapWeights {
    enum { ONE_TEAM = true };
    const TileArgs &args;
    const Outputs &outputs;
    static MEMBER uint block(uint nth, uint team) { return blockIdx.x + (nth * (n_threads() / TEAM_THREADS) + team) * gridDim.x; }
    // Bands of a team.
    MEMBER uint count(uint team) const {
        const uint first = block(0, team), step = block(1, team) - first;
        return first < args.n_blocks ? (args.n_blocks - first + step - 1) / step : 0;
    }
    MEMBER const uchar *at(uint nth, uint team) const {
        const uint block = MapWeights::block(nth, team);
        if (block >= args.n_blocks) return 0;
        const Output output(args, outputs, block, 1);
        return output.weight + ulong(output.band) * args.shape.n_tiles * F::Tile::BYTES;
    }
};

// Writes results of a band; a thread has the `index`th of its team's, 16 a row.
template <typename F, bool ADD> struct WriteMap {
    const TileArgs &args;
    const Outputs &outputs;
    const uint index;
    // What is added to.
    float old;
    MEMBER WriteMap(const TileArgs &args, const Outputs &outputs)
        : args(args), outputs(outputs), index(threadIdx.x % TEAM_THREADS), old(0) {}
    MEMBER void prepare(BlockRows) const {}
    MEMBER Output output(uint nth) const { return Output(args, outputs, MapWeights<F>::block(nth, team()), 1); }
    MEMBER void begin(uint nth, BlockRows rows) {
        if (!ADD || index >= 16 * rows.n) return;
        const Output to = output(nth);
        const uint o = 16 * to.band + index % 16;
        if (o < to.cols) old = to.at(rows.first + index / 16, o);
    }
    MEMBER void operator()(const float *sums, uint nth, BlockRows rows) const {
        if (index >= 16 * rows.n) return;
        const Output to = output(nth);
        const uint at = index % 16, r = index / 16, o = 16 * to.band + at;
        if (o >= to.cols) return;
        to.template write<ADD>(args, rows.first + r, o, F::total(sums + team() * PARTS * F::SUMS, at, r, args.shape), old);
    }
};

// What the host knows of gate and up.
#ifdef GATED_RESULTS
FN uint results_of(const GatedArgs &) { return GATED_RESULTS; }
FN uint is_gelu(const GatedArgs &) { return GATED_GELU; }
#else
FN uint results_of(const GatedArgs &args) { return args.results; }
FN uint is_gelu(const GatedArgs &args) { return args.gelu_tanh; }
#endif

// The second team does the bands of the second weight. Where results are quantised
// bands are done in pairs, which make up a block of 32 columns.
template <typename F> struct GatedWeights {
    enum { ONE_TEAM = false };
    const GatedArgs &args;
    const uchar *gate, *up;
    static MEMBER uint band(const GatedArgs &args, uint nth) {
        return results_of(args) == QUANTISED ? 2 * (blockIdx.x + nth / 2 * gridDim.x) + nth % 2 : blockIdx.x + nth * gridDim.x;
    }
    MEMBER const uchar *at(uint nth, uint team) const {
        const uint band = GatedWeights::band(args, nth);
        if (16 * band >= args.cols) return 0;
        return (team == 0 ? gate : up) + ulong(band) * args.shape.n_tiles * F::Tile::BYTES;
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

    MEMBER void prepare(BlockRows) const {}
    MEMBER void begin(uint, BlockRows) const {}
    MEMBER void operator()(const float *sums, uint nth, BlockRows rows) {
        if (threadIdx.x >= 16 * rows.n) return;
        const uint at = threadIdx.x % 16, r = threadIdx.x / 16, band = GatedWeights<F>::band(args, nth), o = 16 * band + at;
        const float g = F::total(sums, at, r, args.shape), u = F::total(sums + PARTS * F::SUMS, at, r, args.shape);
        const float value = activate(g, is_gelu(args)) * u;
        switch (results_of(args)) {
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
