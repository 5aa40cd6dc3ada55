// Metal's matrices of a SIMD-group for running kernels. Elements are kept as floats, which have every half and
// every bfloat; products are exact, and sums are taken in the order of columns, one rounding each.
#pragma once
#include "emulator.h"

namespace emulator {

static inline float element(float x) { return x; }
static inline float element(half x) { return float(x); }
static inline float element(bfloat x) {
    const uint bits = uint(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace emulator

namespace metal {

// Operations are not inlined, so that the return address tells the places of a kernel apart.
#define MATRIX_FN __attribute__((noinline, convergent)) static
#define FIRST_AT(...) emulator::is_first_at_matrices((__VA_ARGS__), __builtin_return_address(0))

template <typename T, int COLS, int ROWS> struct simdgroup_matrix;
template <typename T> struct simdgroup_matrix<T, 8, 8> {
    emulator::Matrix *place;

    simdgroup_matrix() : place(emulator::make_matrix()) {}
    simdgroup_matrix(const simdgroup_matrix &other) : place(emulator::make_matrix()) { copy(other); }
    ~simdgroup_matrix() { emulator::drop_matrix(); }
    simdgroup_matrix &operator=(const simdgroup_matrix &other) {
        copy(other);
        return *this;
    }
    __attribute__((noinline, convergent)) void copy(const simdgroup_matrix &other) {
        if (FIRST_AT((unsigned long)place * 3 + (unsigned long)other.place)) *place = *other.place;
    }
    __attribute__((noinline, convergent)) void fill(float value) {
        if (!FIRST_AT((unsigned long)place)) return;
        for (int i = 0; i < 64; i++) place->elements[i] = value;
    }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <typename T, int COLS, int ROWS = COLS> static simdgroup_matrix<T, COLS, ROWS> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, COLS, ROWS> matrix;
    matrix.fill(emulator::element(value));
    return matrix;
}

template <typename T>
MATRIX_FN void simdgroup_load(simdgroup_matrix<T, 8, 8> &to, const T *from, ulong row_elements = 8, ulong2 origin = ulong2(0),
                              bool transpose = false) {
    if (!FIRST_AT((unsigned long)to.place * 3 + (unsigned long)from * 5 + row_elements * 2 + transpose)) return;
    from += origin.y * row_elements + origin.x;
    for (int row = 0; row < 8; row++) {
        for (int col = 0; col < 8; col++) {
            to.place->elements[transpose ? 8 * col + row : 8 * row + col] = emulator::element(from[row * row_elements + col]);
        }
    }
}

MATRIX_FN void simdgroup_store(const simdgroup_float8x8 &from, float *to, ulong row_elements = 8, ulong2 origin = ulong2(0),
                               bool transpose = false) {
    if (!FIRST_AT((unsigned long)from.place * 3 + (unsigned long)to * 5 + row_elements * 2 + transpose)) return;
    to += origin.y * row_elements + origin.x;
    for (int row = 0; row < 8; row++) {
        for (int col = 0; col < 8; col++) {
            to[row * row_elements + col] = from.place->elements[transpose ? 8 * col + row : 8 * row + col];
        }
    }
}

// `to = a * b + c`; any of them may be another one.
template <typename A, typename B>
MATRIX_FN void simdgroup_multiply_accumulate(simdgroup_float8x8 &to, const simdgroup_matrix<A, 8, 8> &a,
                                             const simdgroup_matrix<B, 8, 8> &b, const simdgroup_float8x8 &c) {
    const unsigned long operands = (unsigned long)to.place * 3 + (unsigned long)a.place * 5 + (unsigned long)b.place * 7;
    if (!FIRST_AT(operands + (unsigned long)c.place * 11)) return;
    typedef float Row __attribute__((vector_size(32), aligned(4)));
    const emulator::Matrix left = *a.place, right = *b.place;
    for (int row = 0; row < 8; row++) {
        Row sums = *(const Row *)(c.place->elements + 8 * row);
        for (int i = 0; i < 8; i++) sums += left.elements[8 * row + i] * *(const Row *)(right.elements + 8 * i);
        *(Row *)(to.place->elements + 8 * row) = sums;
    }
}

// `to = a * b`.
template <typename A, typename B>
static void simdgroup_multiply(simdgroup_float8x8 &to, const simdgroup_matrix<A, 8, 8> &a,
                               const simdgroup_matrix<B, 8, 8> &b) {
    const simdgroup_float8x8 nothing = make_filled_simdgroup_matrix<float, 8>(0);
    simdgroup_multiply_accumulate(to, a, b, nothing);
}

}  // namespace metal
