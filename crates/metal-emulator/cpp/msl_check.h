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
void simdgroup_barrier(mem_flags);
void threadgroup_barrier(mem_flags);

}  // namespace metal

// A variable in threadgroup memory, which C++ for OpenCL has in kernels only.
#define THREADGROUP_VARIABLE(...) (*(__local Type<__VA_ARGS__> *)0)

#define kernel
#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private
