// Linear maps of 16 to 64 generated rows: a block does several bands at once,
// and both weights and rows stream through shared memory.
#ifndef QUARREL_MANY_ROWS_H
#define QUARREL_MANY_ROWS_H

#include "generated_linear.h"

// Bands of one map that a block does at once: where sums are apart there are two sets of them. `kernel.rs` counts as this does.
#define MANY_BANDS(TILE) (TILE::APART ? 2 : 4)

// The sizes of a kernel: ROWS rows by N_BANDS bands; `kernel.rs` counts as this does.
template <typename T, uint ROWS, uint N_BANDS> struct ManyRows {
    typedef T Tile;
    typedef Placed<T> Place;
    typedef typename Tile::template Rows<false> Rows;
    enum {
        MOST = ROWS,
        ROW_TILES = ROWS / 8,
        BANDS = N_BANDS,
        APART = Piece<Tile>::APART,
        TILE_BYTES = Place::COPIED,
        WEIGHT_BYTES = BANDS * TILE_BYTES,
        SLOT_BYTES = WEIGHT_BYTES + ROW_TILES * Rows::BYTES,
        SUMS = 8 * BANDS * SUMS_STRIDE
    };
    typedef ::Ring<SLOT_BYTES, SLOTS> Ring;
    typedef float Acc[ROW_TILES][BANDS][4];
};

// The tiles of a part in the order of their places in pieces: sums of each place are apart.
template <uint APART> struct ByPlace {
    uint n, place, tile;
    MEMBER ByPlace(uint n) : n(n), place(0), tile(0) {}
    MEMBER void next() {
        tile += APART;
        if (tile >= n) tile = ++place;
    }
    MEMBER bool ends_place() const { return tile + APART >= n; }
};

// A tile of each band and of each eight rows in a slot.
template <typename M> struct ManyStream {
    typename M::Ring ring;
    Columns part;
    ByPlace<M::APART> next_weights, next_rows;
    const uchar *weights, *rows;
    ulong band_stride;
    uint n_bands, row_stride, n_row_tiles;

    MEMBER ManyStream(uint n_tiles) : part(n_tiles, M::Tile::TOGETHER), next_weights(part.n), next_rows(part.n) {}

    // Both in two steps: rows are there later than weights.
    MEMBER void ask_weights(uint i) {
        const uint lane = threadIdx.x % 32;
        if (i >= part.n) return;
        if (lane < n_bands) {
            const TileAt at = M::Place::of(weights + lane * band_stride, next_weights.tile);
            uchar *to = ring.slot(i) + lane * M::TILE_BYTES;
            ring.copy(i, to, at.tile, M::Place::OWN);
            if (M::Tile::SHARED) ring.copy(i, to + M::Place::OWN, at.shared, M::Tile::SHARED);
        }
        next_weights.next();
    }
    MEMBER void ask_rows(uint i) {
        const uint lane = threadIdx.x % 32;
        if (i < part.n) {
            if (lane == 0) ring.expect(i, n_bands * M::TILE_BYTES + n_row_tiles * M::Rows::BYTES);
            __syncwarp();
            if (lane < n_row_tiles) {
                ring.copy(i, ring.slot(i) + M::WEIGHT_BYTES + lane * M::Rows::BYTES,
                          rows + ulong(lane) * row_stride + ulong(next_rows.tile) * M::Rows::BYTES, M::Rows::BYTES);
            }
            next_rows.next();
        }
        ring.close();
    }
};

// Adds the sums of a place, and begins another.
template <typename M> FN void join(typename M::Acc &acc, typename M::Acc &sums) {
    UNROLL
    for (uint r = 0; r < M::ROW_TILES; r++) {
        UNROLL
        for (uint b = 0; b < M::BANDS; b++) {
            UNROLL
            for (uint i = 0; i < 4; i++) acc[r][b][i] += sums[r][b][i], sums[r][b][i] = 0;
        }
    }
}

// Sums of this SIMD-group's part of the columns of `band` and those after it.
template <typename M>
FN void multiply_many(const uint *inputs, const TileShape &shape, const uchar *x, const uchar *weight,
                      uint band, uint n_bands, typename M::Acc &acc) {
    const uint simdgroup = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint n_tiles = shape.n_tiles;
    ManyStream<M> stream(n_tiles);
    stream.band_stride = ulong(n_tiles) * M::Tile::BYTES;
    stream.n_bands = min(uint(M::BANDS), n_bands - band);
    stream.weights = weight + band * stream.band_stride + ulong(stream.part.first) * M::Tile::BYTES;
    stream.row_stride = n_tiles * M::Rows::BYTES;
    stream.rows = x + ulong(blockIdx.y) * M::ROW_TILES * stream.row_stride + ulong(stream.part.first) * M::Rows::BYTES;
    stream.ring.begin(shared_memory + simdgroup * M::Ring::BYTES);
    for (uint i = 0; i < SLOTS; i++) stream.ask_weights(i);
    allow_next();
    wait_for_inputs();
    const uint n_rows = BlockRows(inputs, shape, M::MOST).n;
    stream.n_row_tiles = (n_rows + 7) / 8;
    for (uint i = 0; i < SLOTS; i++) stream.ask_rows(i);
    typename M::Acc sums = {};  // of a place, where they are apart
    ByPlace<M::APART> order(stream.part.n);
    for (uint i = 0; i < stream.part.n; i++, order.next()) {
        const uchar *weights = stream.ring.wait(i), *rows = weights + M::WEIGHT_BYTES;
        typename M::Tile tiles[M::BANDS];
        UNROLL
        for (uint b = 0; b < M::BANDS; b++) tiles[b].load(M::Place::copied(weights + b * M::TILE_BYTES, order.tile), lane);
        UNROLL
        for (uint r = 0; r < M::ROW_TILES; r++) {
            if (8 * r >= n_rows) break;
            typename M::Rows part;
            part.template load<M::Tile::AFFINE>(rows + r * M::Rows::BYTES, lane);
            UNROLL
            for (uint b = 0; b < M::BANDS; b++) tiles[b].add(M::APART > 1 ? sums[r][b] : acc[r][b], part);
        }
        if (M::APART > 1 && order.ends_place()) join<M>(acc, sums);
        __syncwarp();
        stream.ask_weights(i + SLOTS);
        stream.ask_rows(i + SLOTS);
    }
}

// Adds up the parts of eight rows after the other; `write(sums, row, n)` takes those of `n` rows from `row` on.
template <typename M, typename Write>
FN void add_parts(const typename M::Acc &acc, BlockRows rows, const Write &write) {
    const uint simdgroup = threadIdx.x / 32;
    float *sums = (float *)(shared_memory + blockDim.x / 32 * M::Ring::BYTES);
    UNROLL
    for (uint tile = 0; tile < M::ROW_TILES; tile++) {
        if (8 * tile >= rows.n) break;
        leave_sums<M::BANDS>(sums + simdgroup * M::SUMS, acc[tile]);
        group_barrier();
        write(sums, rows.first + 8 * tile, min(8u, rows.n - 8 * tile));
        group_barrier();
    }
}

template <typename M, bool ADD>
FN void map_many(const TileArgs &args, const uint *inputs, const uchar *x, const Outputs &outputs) {
    typename M::Acc acc = {};
    const Output output(args, outputs, blockIdx.x, M::BANDS);
    multiply_many<M>(inputs, args.shape, x, output.weight, output.band,
                     (output.cols + 15) / 16, acc);
    const BlockRows rows(inputs, args.shape, M::MOST);
    add_parts<M>(acc, rows, [&](const float *sums, uint row, uint n) {
        for (uint i = threadIdx.x; i < 16 * M::BANDS * n; i += blockDim.x) {
            const uint at = i % (16 * M::BANDS), r = i / (16 * M::BANDS), o = 16 * output.band + at;
            const float sum = M::Tile::unit() * sum_of<M::BANDS>(sums, at, r, M::Tile::groups(args.shape));
            if (o < output.cols) output.write<ADD>(args, row + r, o, sum);
        }
    });
}

template <typename M>
FN void gated_many(const GatedArgs &args, const uint *inputs, const uchar *x, const uchar *gate, const uchar *up,
                   float *out) {
    typename M::Acc acc = {};
    const uint band = blockIdx.x * M::BANDS;
    multiply_many<M>(inputs, args.shape, x, threadIdx.x / 32 < PARTS ? gate : up, band,
                     (args.cols + 15) / 16, acc);
    const BlockRows rows(inputs, args.shape, M::MOST);
    add_parts<M>(acc, rows, [&](const float *sums, uint row, uint n) {
        for (uint i = threadIdx.x; i < 16 * M::BANDS * n; i += blockDim.x) {
            const uint at = i % (16 * M::BANDS), r = i / (16 * M::BANDS), o = 16 * band + at;
            if (o >= args.cols) continue;
            const float unit = M::Tile::unit();
            const uint groups = M::Tile::groups(args.shape);
            const float g = unit * sum_of<M::BANDS>(sums, at, r, groups);
            const float u = unit * sum_of<M::BANDS>(sums + PARTS * M::SUMS, at, r, groups);
            out[ulong(row + r) * args.cols + o] = activate(g, args.gelu_tanh) * u;
        }
    });
}

#endif
