// Linear maps of prompt rows on Metal, by matrices of 8x8.
//
// Limited by operations from about a dozen rows of Q4_0 on, and forty of F16 (an M1's public figures, 68 GB/s
// and 2.6 TFLOPS): a weight is read and unpacked once for 64 rows, an activation read once for 64 outputs, so
// that a tile of 64 rows, 64 outputs and 32 columns has 131,072 multiplications for 128 threads to unpack 16
// weights and load 16 activations each. A SIMD-group makes
// 32 rows of 32 outputs: it loads 8 matrices for 16 products, and its sums are 32 registers a lane. Tiles
// take 12 KiB of threadgroup memory (16 KiB of plain floats), so that several threadgroups run side by side
// and one multiplies while another unpacks. Shorter prompts leave out products of matrices without rows.
//
// Weights become halves, within 2^-11 of themselves, or 2^-25 where they are below 2^-14; activations, which may be beyond a half's range
// (65504), stay floats. So do both where weights are floats. BF16 is multiplied as it is, and activations
// rounded to it, where the compiler has it (Metal 3.1), else as floats. A weight beyond 65504 becomes
// infinite: in most formats with scales these are halves themselves, and models have no such weights. Halves have
// every element of MXFP4 whose scale is between 2^-23 and 2^13.
//
// A row's sum is taken in the order of columns as tiles take them, whatever rows stand beside it.
#ifndef QUARREL_SIMD_PROMPTS_H
#define QUARREL_SIMD_PROMPTS_H

#include "matrix_tiles.h"
#include "simd_maps.h"

// As `simd/prompts.rs` has them: rows and outputs of a threadgroup, which has two threads each.
#define TILE 64
// Columns of a tile: two parts of sixteen.
#define TILE_COLS 32
#define COL_MATRICES (TILE_COLS / SIDE)
// Matrices of rows, and of outputs, that each of the SIMD-groups makes.
#define BANDS 4
#define HALF_TILE (BANDS * SIDE)
#define PROMPT_SIMDGROUPS 4

// Where a run of a row begins in its tile.
struct MatrixPlaces {
    static uint place(uint row, uint run) { return run_place(row, run, COL_MATRICES); }
};

// What activations and weights of a format become.
template <typename Format> struct Prompt : MatrixPlaces {
    typedef FloatTiles X;
    typedef HalfTiles W;
};
template <> struct Prompt<F32> : MatrixPlaces {
    typedef FloatTiles X;
    typedef FloatTiles W;
};
template <> struct Prompt<BF16> : MatrixPlaces {
#ifdef HAS_BFLOAT
    typedef BfloatTiles X;
    typedef BfloatTiles W;
#else
    typedef FloatTiles X;
    typedef FloatTiles W;
#endif
};

// The threadgroup's memory, in floats: tiles, and later results of each SIMD-group with sums of squares.
#define RESULTS (SIDE * HALF_TILE)
template <typename Format> struct PromptMemory {
    enum { X_FLOATS = TILE * TILE_COLS * Prompt<Format>::X::BYTES / 4 };
    enum { FLOATS = X_FLOATS + TILE * TILE_COLS * Prompt<Format>::W::BYTES / 4 };
};

// Sixteen columns of a row, as two runs.
struct Columns {
    uint unit, part;
    uint end;  // of the row

    uint behind(uint col) const { return col + SIDE <= end ? SIDE : col < end ? end - col : 0; }
};

template <typename Format> FN Columns find_columns(uint index, uint cols) {
    typedef Part<Format> P;
    return Columns{index / P::PARTS, index % P::PARTS, cols};
}
template <typename Format> FN uint first_column(Columns columns, uint run) {
    typedef Part<Format> P;
    return columns.unit * P::LEN + P::place(columns.part) + run * P::DISTANCE;
}

// Eight weights of a row. Columns that do not exist are 0; only rows of plain floats end within a run.
template <typename Format, bool PLAIN> struct WeightRun {
    static void load(device const uchar *row, Columns columns, uint run, thread float *w) {
        typedef Part<Format> P;
        if (columns.behind(first_column<Format>(columns, run)) == 0) {
            for (uint i = 0; i < SIDE; i++) w[i] = 0;
            return;
        }
        device const typename Format::Block *block = (device const typename Format::Block *)row + columns.unit;
        const Common common = P::weights(block, columns.part, run, w);
        UNROLL
        for (uint i = 0; i < SIDE; i++) w[i] = multiply_add(common.scale, w[i], common.offset);
    }
};
template <typename Format> struct WeightRun<Format, true> {
    static void load(device const uchar *row, Columns columns, uint run, thread float *w) {
        const uint col = first_column<Format>(columns, run), n = columns.behind(col);
        device const typename Format::Block *elements = (device const typename Format::Block *)row;
        if (n == SIDE) {
            Part<Format>::weights(elements + 16 * columns.unit, 0, run, w);
            return;
        }
        for (uint i = 0; i < SIDE; i++) w[i] = i < n ? Part<Format>::one(elements + col + i) : 0;
    }
};

// A thread's row of activations, and the squares of what it read of it.
struct PromptRow {
    device const float *x;
    device const float *norm;
    bool has_norm;
    float squares;

    void load(uint col, uint n, thread float *values) {
        float factors[SIDE];
        read(x, col, n, values);
        if (!has_norm) return;
        read(norm, col, n, factors);
        UNROLL
        for (uint i = 0; i < SIDE; i++) {
            squares = multiply_add(values[i], values[i], squares);
            values[i] *= factors[i];
        }
    }
    static void read(device const float *from, uint col, uint n, thread float *values) {
        if (n == SIDE) {
            load_eight(from + col, values);
            return;
        }
        for (uint i = 0; i < SIDE; i++) values[i] = i < n ? from[col + i] : 0;
    }
};

// A thread's row, and its output's weights; those beyond the last repeat it, unwritten.
FN PromptRow find_row(constant SimdArgs &args, device const float *x, device const float *norm, uint first_row,
                      uint end, Threads t) {
    const ulong row = min(first_row + t.index / 2, end - 1);
    return PromptRow{x + row * args.maps.shape.cols, norm, args.maps.shape.has_norm != 0, 0};
}
template <typename Format>
FN device const uchar *find_output(constant SimdArgs &args, Map map, uint first_out, Threads t) {
    const ulong out = min(first_out + t.index / 2, map.cols - 1);
    return map.weight + out * (args.maps.shape.cols / Format::LEN) * sizeof(typename Format::Block);
}

// What a row's sums are multiplied by, from both sums of its squares.
FN float norm_factor(constant SimdArgs &args, threadgroup const float *both) {
    if (!args.maps.shape.has_norm) return 1;
    return 1.0f / exact_sqrt((both[0] + both[1]) / float(args.maps.shape.cols) + args.maps.shape.eps);
}

// Fills both tiles with the columns of `step`; each thread has half of a row and half of an output.
template <typename Format, typename Tiles>
FN void fill_tiles(device const uchar *weight, thread PromptRow &row, uint cols, uint step,
                   threadgroup typename Tiles::X::Element *x, threadgroup typename Tiles::W::Element *w, Threads t) {
    const uint half_row = t.index % 2;
    const Columns columns = find_columns<Format>(2 * step + half_row, cols);
    UNROLL
    for (uint run = 0; run < 2; run++) {
        float values[SIDE];
        const uint place = Tiles::place(t.index / 2, 2 * half_row + run);
        const uint col = first_column<Format>(columns, run);
        row.load(col, columns.behind(col), values);
        store_run<typename Tiles::X>(x + place, values);
        WeightRun<Format, Format::LEN == 1>::load(weight, columns, run, values);
        store_run<typename Tiles::W>(w + place, values);
    }
}

// The sums of a SIMD-group.
struct Sums {
    simdgroup_float8x8 of[BANDS][BANDS];
};

// Adds the products of both tiles: the first `bands` bands of rows from `x` on with the outputs from `w` on.
template <typename Format>
FN void multiply_tiles(threadgroup const typename Prompt<Format>::X::Element *x,
                       threadgroup const typename Prompt<Format>::W::Element *w, uint bands, thread Sums &sums) {
    UNROLL
    for (uint k = 0; k < COL_MATRICES; k++) {
        typename Prompt<Format>::W::Matrix b[BANDS];
        UNROLL
        for (uint j = 0; j < BANDS; j++) {
            simdgroup_load(b[j], w + (j * COL_MATRICES + k) * MATRIX, SIDE, ulong2(0), true);
        }
        UNROLL
        for (uint i = 0; i < BANDS; i++) {
            if (i >= bands) continue;
            typename Prompt<Format>::X::Matrix a;
            simdgroup_load(a, x + (i * COL_MATRICES + k) * MATRIX, SIDE);
            UNROLL
            for (uint j = 0; j < BANDS; j++) simdgroup_multiply_accumulate(sums.of[i][j], a, b[j], sums.of[i][j]);
        }
    }
}

// Writes a SIMD-group's results, eight rows at a time through `results`, its part of the threadgroup's memory;
// `squares` has two sums for each row of the norm.
FN void write_results(constant SimdArgs &args, Map map, thread const Sums &sums, uint bands, uint first_row,
                      uint end, uint first_out, threadgroup float *results, threadgroup const float *squares,
                      uint lane) {
    UNROLL
    for (uint i = 0; i < BANDS; i++) {
        if (i >= bands) continue;
        // What is there has been read.
        simdgroup_barrier(mem_flags::mem_threadgroup);
        UNROLL
        for (uint j = 0; j < BANDS; j++) simdgroup_store(sums.of[i][j], results + j * SIDE, HALF_TILE);
        simdgroup_barrier(mem_flags::mem_threadgroup);
        for (uint r = 0; r < SIDE; r++) {
            const uint row = first_row + i * SIDE + r, out = first_out + lane;
            if (row >= end || out >= map.cols) continue;
            const float factor = norm_factor(args, squares + 2 * (i * SIDE + r));
            write_sum(args, map, row, out, results[r * HALF_TILE + lane] * factor);
        }
    }
}

// A threadgroup's 64 rows, the `group_y`th of prompts, of 64 outputs, the `group_x`th of the map.
template <typename Format>
FN void prompt_rows(constant SimdArgs &args, device const uint *inputs, device const float *x,
                    device const float *norm, Map map, threadgroup float *memory, uint group_x, uint group_y,
                    Threads t) {
    typedef typename Prompt<Format>::X X;
    typedef typename Prompt<Format>::W W;
    const uint cols = args.maps.shape.cols, end = inputs[args.maps.shape.end_at];
    const uint first_row = inputs[args.maps.shape.first_at] + group_y * TILE, first_out = group_x * TILE;
    if (first_row >= end) return;
    threadgroup typename X::Element *x_tile = (threadgroup typename X::Element *)memory;
    threadgroup typename W::Element *w_tile =
        (threadgroup typename W::Element *)(memory + PromptMemory<Format>::X_FLOATS);

    PromptRow row = find_row(args, x, norm, first_row, end, t);
    device const uchar *weight = find_output<Format>(args, map, first_out, t);
    const uint band_row = t.simdgroup / 2 * HALF_TILE, band_out = t.simdgroup % 2 * HALF_TILE;
    const uint bands = first_row + band_row < end ? (min(end - first_row - band_row, uint(HALF_TILE)) + SIDE - 1) / SIDE : 0;
    Sums sums;
    for (uint i = 0; i < BANDS; i++) {
        for (uint j = 0; j < BANDS; j++) sums.of[i][j] = make_filled_simdgroup_matrix<float, 8>(0.0f);
    }
    for (uint step = 0; step * TILE_COLS < cols; step++) {
        // What is there has been read.
        group_barrier();
        fill_tiles<Format, Prompt<Format>>(weight, row, cols, step, x_tile, w_tile, t);
        group_barrier();
        multiply_tiles<Format>(x_tile + band_row * TILE_COLS, w_tile + band_out * TILE_COLS, bands, sums);
    }
    group_barrier();
    threadgroup float *squares = memory + PROMPT_SIMDGROUPS * RESULTS;
    squares[t.index] = row.squares;
    group_barrier();
    write_results(args, map, sums, bands, first_row + band_row, end, first_out + band_out,
                  memory + t.simdgroup * RESULTS, squares + 2 * band_row, t.lane);
}

#endif
