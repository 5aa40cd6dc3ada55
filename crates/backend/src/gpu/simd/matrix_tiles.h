// Tiles of 8x8 matrices in threadgroup memory, which a SIMD-group multiplies.
//
// A matrix's 64 elements follow each other, so that loading one reads neighbours and
// a thread that has eight values of a row writes them side by side.
#ifndef QUARREL_MATRIX_TILES_H
#define QUARREL_MATRIX_TILES_H

#include "dialect.h"

// Elements of a matrix, and of a side.
#define MATRIX 64
#define SIDE 8

// What elements are kept as. Sums are always floats.
struct FloatTiles {
    typedef float Element;
    typedef simdgroup_float8x8 Matrix;
    enum { BYTES = 4 };
    static Element of(float x) { return x; }
};
// Eleven bits, and nothing beyond 65504: for weights and what caches hold, never for activations.
struct HalfTiles {
    typedef half Element;
    typedef simdgroup_half8x8 Matrix;
    enum { BYTES = 2 };
    static Element of(float x) { return half(x); }
};
// Metal 3.1 has bfloat.
#if __METAL_VERSION__ >= 310
#define HAS_BFLOAT
struct BfloatTiles {
    typedef bfloat Element;
    typedef simdgroup_bfloat8x8 Matrix;
    enum { BYTES = 2 };
    static Element of(float x) { return as_type<bfloat>(float_to_bfloat(x)); }
};
#endif

// Where the eight elements of row `row` begin in the matrix that is the `col_matrix`th of its band of
// `col_matrices`.
FN uint run_place(uint row, uint col_matrix, uint col_matrices) {
    return ((row / SIDE) * col_matrices + col_matrix) * MATRIX + row % SIDE * SIDE;
}

template <typename Tiles>
FN void store_run(threadgroup typename Tiles::Element *to, thread const float *values) {
    UNROLL
    for (uint i = 0; i < SIDE; i++) to[i] = Tiles::of(values[i]);
}

#endif
