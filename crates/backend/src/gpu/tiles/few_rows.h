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
        CHUNK = Piece<Tile>::TILES,
        SLOT_BYTES = CHUNK * Tile::BYTES,
        TOGETHER = Tile::TOGETHER,
        SUMS = SINGLE ? 16 : 8 * SUMS_STRIDE,
        // Sums of the tiles of a piece are apart; of a single row, in one of four lanes each.
        APART = Piece<Tile>::APART,
        ONE_EACH = SINGLE && Tile::APART,
        SETS = SINGLE ? 1 : APART
    };
    typedef float Acc[SETS][4];
    typedef ::Ring<SLOT_BYTES, SLOTS> Ring;

    // The sums of all tiles: those of each place in a piece, in order.
    static MEMBER void join(Acc &acc) {
        UNROLL
        for (uint u = 1; u < SETS; u++) {
            UNROLL
            for (uint i = 0; i < 4; i++) acc[0][i] += acc[u][i];
        }
        if (!ONE_EACH) return;
        const float first[2] = {acc[0][0], acc[0][2]};
        UNROLL
        for (uint u = 1; u < APART; u++) {
            UNROLL
            for (uint i = 0; i < 2; i++) acc[0][2 * i] += __shfl_down_sync(0xffffffff, first[i], u);
        }
    }

    // Leaves a SIMD-group's sums of a band where its team adds them up.
    static MEMBER void leave(float *sums, Acc &acc) {
        const uint lane = threadIdx.x % 32;
        join(acc);
        if (SINGLE) {
            if (lane % 4 == 0) sums[lane / 4] = acc[0][0], sums[lane / 4 + 8] = acc[0][2];
            return;
        }
        leave_band(sums, acc[0]);
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
        : weights(weights), part(n_tiles, F::TOGETHER), nth(0), tile(0), asked(0) {
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
                      [&](uint i, float4 v, float scale) { F::Rows::put(to + i / 64 * F::Rows::SHARED_BYTES, i, v, scale); });
        group_barrier();
    }
};

// Adds the first `n` tiles of a piece of weights, one after the other.
template <typename F>
FN void add_tiles(typename F::Acc &acc, const uchar *weights, const uchar *rows, uint n, uint lane) {
    UNROLL
    for (uint u = 0; u < F::CHUNK; u++) {
        if (u >= n) break;
        typename F::Tile tile;
        typename F::Rows x;
        tile.load(Placed<typename F::Tile>::of(weights, u), lane);
        x.template load<F::Tile::AFFINE>(rows + u * F::Rows::SHARED_BYTES, lane);
        if (!F::ONE_EACH) {
            tile.add(acc[F::SETS > 1 ? u : 0], x);
        } else {
            float sums[4] = {acc[0][0], 0, acc[0][2], 0};
            tile.add(sums, x);
            if (lane % 4 == u) acc[0][0] = sums[0], acc[0][2] = sums[2];
        }
    }
}

// Adds a whole piece, all of which is read first.
template <typename F>
FN void add_piece(typename F::Acc &acc, const uchar *weights, const uchar *rows, uint lane) {
    typename F::Tile tiles[F::CHUNK];
    typename F::Rows x[F::CHUNK];
    UNROLL
    for (uint u = 0; u < F::CHUNK; u++) {
        tiles[u].load(Placed<typename F::Tile>::of(weights, u), lane);
        x[u].template load<F::Tile::AFFINE>(rows + u * F::Rows::SHARED_BYTES, lane);
    }
    UNROLL
    for (uint u = 0; u < F::CHUNK; u++) tiles[u].add(acc[F::SETS > 1 ? u : 0], x[u]);
}

// The same of a single row and tiles whose sums are apart: all lanes that share outputs have the integers of all tiles,
// and each scales those of one.
template <typename F>
FN void add_piece_apart(typename F::Acc &acc, const uchar *weights, const uchar *rows, uint lane) {
    typedef Placed<typename F::Tile> Place;
    static_assert(F::CHUNK == 4, "one for each lane that shares outputs");
    const uint own = lane % 4;
    typename F::Tile scales;
    typename F::Rows x;
    scales.load_scales(Place::of(weights, own), lane);
    x.template load_scales<F::Tile::AFFINE>(rows + own * F::Rows::SHARED_BYTES, lane);
    int sums[2][4];
    UNROLL
    for (uint u = 0; u < F::CHUNK; u++) {
        typename F::Tile tile;
        tile.load_elements(Place::of(weights, u), lane);
        x.load_words(rows + u * F::Rows::SHARED_BYTES, lane);
        int products[2][4];
        tile.multiply(products, x);
        UNROLL
        for (uint i = 0; i < 2; i++) {
            // A single row's, of outputs g and g + 8.
            UNROLL
            for (uint k = 0; k < 4; k += 2) sums[i][k] = u == 0 || own == u ? products[i][k] : sums[i][k];
        }
    }
    scales.scale(acc[0], sums, x);
}

// Adds what there is of a piece, `n` tiles or more. Fragments of tiles that share scales are not all read first: registers
// would be spilt.
template <typename F, bool READ_FIRST>
FN void add_some(typename F::Acc &acc, const uchar *weights, const uchar *rows, uint n, uint lane) {
    if (n < F::CHUNK) return add_tiles<F>(acc, weights, rows, n, lane);
    if constexpr (F::ONE_EACH) add_piece_apart<F>(acc, weights, rows, lane);
    else if constexpr (READ_FIRST && F::TOGETHER == 1) add_piece<F>(acc, weights, rows, lane);
    else add_tiles<F>(acc, weights, rows, F::CHUNK, lane);
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
        typename F::Acc acc = {};
        for (uint tile = 0; tile < stream.part.n; tile += F::CHUNK, piece++) {
            const uchar *slot = stream.ring.wait(piece);
            add_some<F, false>(acc, slot, rows + tile * F::Rows::SHARED_BYTES, stream.part.n - tile, lane);
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
