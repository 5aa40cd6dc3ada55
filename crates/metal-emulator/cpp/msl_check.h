// Metal's library as declarations for clang's C++ for OpenCL, where address
// spaces are part of types: with the generic one off, a pointer that names none
// is a `thread` pointer, as strict as Metal itself.
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#include "msl_types.h"

typedef float float4 __attribute__((ext_vector_type(4)));
typedef float packed_float4 __attribute__((ext_vector_type(4)));
typedef uchar packed_uchar4 __attribute__((ext_vector_type(4)));
typedef ushort packed_ushort4 __attribute__((ext_vector_type(4)));
typedef uint uint3 __attribute__((ext_vector_type(3)));
struct ulong2 {
    ulong x, y;
    explicit ulong2(ulong);
    ulong2(ulong, ulong);
};
// Nothing but its size is asked for.
struct bfloat {
    ushort bits;
};

namespace metal {

template <typename To, typename From> To as_type(From from) {
    static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ");
    To to;
    return to;
}

float fma(float, float, float);
float max(float, float);
float rint(float);
uint min(uint, uint);
uint max(uint, uint);

namespace precise {
float exp(float);
float tanh(float);
float cos(float);
float sin(float);
float sqrt(float);
}  // namespace precise

float simd_sum(float);
float simd_max(float);
uint simd_max(uint);
uint simd_min(uint);
uint simd_sum(uint);
uint simd_prefix_inclusive_sum(uint);
float simd_shuffle_xor(float, ushort);
void simdgroup_barrier(mem_flags);
void threadgroup_barrier(mem_flags);

template <typename T, int COLS, int ROWS = COLS> struct simdgroup_matrix {
    static_assert(COLS == 8 && ROWS == 8, "matrices are of 8x8");
    T elements[2];
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

// What is multiplied with what: of floats and halves any, bfloats with each other.
template <typename A, typename B> struct CanMultiply {
    enum { YES = 1 };
};
template <typename A> struct CanMultiply<A, bfloat> {
    enum { YES = 0 };
};
template <typename B> struct CanMultiply<bfloat, B> {
    enum { YES = 0 };
};
template <> struct CanMultiply<bfloat, bfloat> {
    enum { YES = 1 };
};

template <typename T, int COLS, int ROWS = COLS> simdgroup_matrix<T, COLS, ROWS> make_filled_simdgroup_matrix(T);
template <typename A, typename B>
void simdgroup_multiply_accumulate(__private simdgroup_float8x8 &, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>,
                                   simdgroup_float8x8) {
    static_assert(CanMultiply<A, B>::YES, "these are not multiplied with each other");
}
template <typename A, typename B>
void simdgroup_multiply(__private simdgroup_float8x8 &, simdgroup_matrix<A, 8, 8>, simdgroup_matrix<B, 8, 8>) {
    static_assert(CanMultiply<A, B>::YES, "these are not multiplied with each other");
}
template <typename T>
void simdgroup_load(__private simdgroup_matrix<T, 8, 8> &, const __local T *, ulong = 8, ulong2 = ulong2(0), bool = false);
template <typename T>
void simdgroup_load(__private simdgroup_matrix<T, 8, 8> &, const __global T *, ulong = 8, ulong2 = ulong2(0), bool = false);
template <typename T> void simdgroup_store(simdgroup_matrix<T, 8, 8>, __local T *, ulong = 8, ulong2 = ulong2(0), bool = false);
template <typename T> void simdgroup_store(simdgroup_matrix<T, 8, 8>, __global T *, ulong = 8, ulong2 = ulong2(0), bool = false);

}  // namespace metal

// A variable in threadgroup memory, which C++ for OpenCL has in kernels only.
#define THREADGROUP_VARIABLE(...) (*(__local Type<__VA_ARGS__> *)0)

#define kernel
#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private
