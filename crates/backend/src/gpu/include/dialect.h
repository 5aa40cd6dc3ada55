// What CUDA C++ and the Metal Shading Language spell differently, so that the
// body of a kernel can be written once. Entry points are per dialect.
#ifndef QUARREL_DIALECT_H
#define QUARREL_DIALECT_H

#if defined(__CUDACC__)

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long long ulong;

// CUDA pointers are generic: address spaces say nothing.
#define DEVICE
#define CONSTANT const
// What declares a table of constants, which pointers to CONSTANT read.
#define TABLE static __device__ const
#define THREADGROUP
#define THREAD
#define FN static __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define UNROLL_BY(n) PRAGMA(unroll n)
#define PRAGMA(text) _Pragma(#text)

FN float simd_sum(float x) {
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
FN float simd_max(float x) {
    for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}
FN uint simd_max(uint x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xffffffffu, x);
#else
    for (int offset = 16; offset > 0; offset /= 2) x = max(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
#endif
}
FN uint simd_min(uint x) { return ~simd_max(~x); }
FN uint simd_sum(uint x) {
#if __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, x);
#else
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
#endif
}
// The sum of what this lane and those before it have.
FN uint simd_prefix_inclusive_sum(uint x) {
    for (uint offset = 1; offset < 32; offset *= 2) {
        const uint before = __shfl_up_sync(0xffffffffu, x, offset);
        if (threadIdx.x % 32 >= offset) x += before;
    }
    return x;
}
FN void group_barrier() { __syncthreads(); }
// Makes what a SIMD-group wrote to device memory known to all of it.
FN void simd_barrier() { __syncwarp(); }

FN float exact_exp(float x) { return expf(x); }
FN float exact_tanh(float x) { return tanhf(x); }
// An angle is reduced once for both.
FN void exact_sincos(float x, float &sine, float &cosine) { sincosf(x, &sine, &cosine); }
FN float exact_sqrt(float x) { return sqrtf(x); }
FN float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
FN float larger(float a, float b) { return fmaxf(a, b); }
FN float nearest_even(float x) { return rintf(x); }

FN float half_to_float(ushort bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
FN ushort float_to_half(float x) {
    ushort bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
FN float float_of_bits(uint bits) { return __uint_as_float(bits); }
FN uint bits_of_float(float x) { return __float_as_uint(x); }

#else

#include <metal_stdlib>
using namespace metal;

// Arithmetic as it is written: fused multiply-adds are written out. Each compiler of Apple's knows one of these.
#pragma METAL fp math_mode(safe)
#pragma METAL fp contract(off)
#pragma clang fp contract(off)

#define DEVICE device
#define CONSTANT constant
#define TABLE constant
#define THREADGROUP threadgroup
#define THREAD thread
#define FN static inline
#define MEMBER inline
#define UNROLL _Pragma("unroll")
#define UNROLL_BY(n)

// simd_sum, simd_max, simd_min and simd_prefix_inclusive_sum are Metal's own.
FN void group_barrier() { threadgroup_barrier(mem_flags::mem_threadgroup); }
// Makes what a SIMD-group wrote to device memory known to all of it.
FN void simd_barrier() { simdgroup_barrier(mem_flags::mem_device); }

// Metal compiles with fast maths unless told otherwise.
FN float exact_exp(float x) { return precise::exp(x); }
FN float exact_tanh(float x) { return precise::tanh(x); }
FN void exact_sincos(float x, thread float &sine, thread float &cosine) { sine = precise::sin(x), cosine = precise::cos(x); }
FN float exact_sqrt(float x) { return precise::sqrt(x); }
FN float multiply_add(float a, float b, float c) { return fma(a, b, c); }
FN float larger(float a, float b) { return max(a, b); }
FN float nearest_even(float x) { return rint(x); }

FN float half_to_float(ushort bits) { return float(as_type<half>(bits)); }
FN ushort float_to_half(float x) { return as_type<ushort>(half(x)); }
FN float float_of_bits(uint bits) { return as_type<float>(bits); }
FN uint bits_of_float(float x) { return as_type<uint>(x); }

#endif

// Where a thread stands in its threadgroup (a CUDA block).
struct Threads {
    uint index;      // in the threadgroup
    uint count;      // of the threadgroup
    uint lane;       // in the SIMD-group (a CUDA warp)
    uint simdgroup;  // in the threadgroup
};

#if defined(__CUDACC__)
FN Threads threads() {
    Threads t = {threadIdx.x, blockDim.x, threadIdx.x % 32, threadIdx.x / 32};
    return t;
}
#else
// The last parameters of every Metal entry point, and what bodies get of them.
#define BUILTINS                                                                                          \
    uint3 group [[threadgroup_position_in_grid]], uint3 group_size [[threads_per_threadgroup]],           \
        uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],       \
        uint simdgroup [[simdgroup_index_in_threadgroup]]
#define THREADS (Threads{thread_index, group_size.x, lane, simdgroup})
#endif

// bfloat16 is the upper half of a float in both dialects; NaN stays NaN.
FN float bfloat_to_float(ushort bits) { return float_of_bits(uint(bits) << 16); }
FN ushort float_to_bfloat(float x) {
    uint bits = bits_of_float(x);
    if (x != x) return ushort((bits >> 16) | 64);
    return ushort((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The sum over the threadgroup, in an order that depends on its size alone.
// `partial` has one place a SIMD-group and may be used again after a barrier.
FN float group_sum(float x, THREADGROUP float *partial, Threads t) {
    x = simd_sum(x);
    if (t.lane == 0) partial[t.simdgroup] = x;
    group_barrier();
    float sum = 0;
    for (uint i = 0; i < t.count / 32; i++) sum += partial[i];
    return sum;
}

#endif
