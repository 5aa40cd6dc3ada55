// Metal's library for running kernels: address spaces vanish, and operations of
// a SIMD-group or threadgroup are the emulator's.
#pragma once
#include "emulator.h"
#include "msl_types.h"

typedef _Float16 half;
// Its bits: kernels make and read them themselves.
struct bfloat {
    ushort bits;
};

struct uint3 {
    uint x, y, z;
};
struct ulong2 {
    ulong x, y;
    explicit ulong2(ulong both) : x(both), y(both) {}
    ulong2(ulong x, ulong y) : x(x), y(y) {}
};
struct alignas(16) float4 {
    float x, y, z, w;
};
// Vectors that may lie wherever their elements may.
template <typename T> struct PackedFour {
    T elements[4];
    T operator[](uint i) const { return elements[i]; }
};
typedef PackedFour<float> packed_float4;
typedef PackedFour<ushort> packed_ushort4;
typedef PackedFour<uchar> packed_uchar4;

namespace metal {

template <typename To, typename From> static inline To as_type(From from) {
    static_assert(sizeof(To) == sizeof(From), "as_type: sizes differ");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

static inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float max(float a, float b) { return __builtin_fmaxf(a, b); }
static inline float rint(float x) { return __builtin_rintf(x); }
static inline uint min(uint a, uint b) { return a < b ? a : b; }
static inline uint max(uint a, uint b) { return a > b ? a : b; }

namespace precise {
static inline float exp(float x) { return __builtin_expf(x); }
static inline float tanh(float x) { return __builtin_tanhf(x); }
static inline float cos(float x) { return __builtin_cosf(x); }
static inline float sin(float x) { return __builtin_sinf(x); }
static inline float sqrt(float x) { return __builtin_sqrtf(x); }
}  // namespace precise

// Not inlined, so that the return address tells the places of a kernel apart;
// convergent, so that the compiler keeps each place one.
__attribute__((noinline, convergent)) static float simd_sum(float value) {
    return emulator::simd_sum(value, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) static float simd_max(float value) {
    return emulator::simd_max(value, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) static uint simd_max(uint value) {
    return emulator::simd_max(value, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) static uint simd_min(uint value) {
    return emulator::simd_min(value, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) static uint simd_sum(uint value) {
    return emulator::simd_sum(value, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) static uint simd_prefix_inclusive_sum(uint value) {
    return emulator::simd_prefix_inclusive_sum(value, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) static float simd_shuffle_xor(float value, ushort mask) {
    return emulator::simd_shuffle_xor(value, mask, __builtin_return_address(0));
}
// All lanes wait for each other, as for a result.
__attribute__((noinline, convergent)) static void simdgroup_barrier(mem_flags) {
    emulator::simd_sum(0.0f, __builtin_return_address(0));
}
__attribute__((noinline, convergent)) static void threadgroup_barrier(mem_flags) {
    emulator::barrier(__builtin_return_address(0));
}

}  // namespace metal

#include "msl_matrix.h"

namespace emulator {

// A kernel's argument from what it is bound to.
template <typename T> struct Argument {
    static T get(const Thread &thread, const Parameter &parameter) {
        switch (parameter.binding) {
            case Binding::ThreadIndex: return T(thread.index);
            case Binding::Lane: return T(thread.index % SIMD_WIDTH);
            default: return T(thread.index / SIMD_WIDTH);
        }
    }
};
template <> struct Argument<uint3> {
    static uint3 get(const Thread &thread, const Parameter &parameter) {
        const bool position = parameter.binding == Binding::ThreadgroupPosition;
        const Size size = position ? thread.group : thread.launch->threads;
        return uint3{size.x, size.y, size.z};
    }
};
template <typename T> struct Argument<T *> {
    static T *get(const Thread &thread, const Parameter &p) { return (T *)thread.launch->buffers[p.index]; }
};
template <typename T> struct Argument<T &> {
    static T &get(const Thread &thread, const Parameter &p) { return *(T *)thread.launch->buffers[p.index]; }
};

template <int... I> struct Indices {};
template <int N, int... I> struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I> struct MakeIndices<0, I...> {
    typedef Indices<I...> Type;
};

template <typename F, F *function> struct Call;
template <typename... A, void (*function)(A...)> struct Call<void(A...), function> {
    template <int... I> static void apply(const Thread &thread, const Parameter *parameters, Indices<I...>) {
        function(Argument<A>::get(thread, parameters[I])...);
    }
    static void entry(const Thread &thread, const Parameter *parameters) {
        apply(thread, parameters, typename MakeIndices<sizeof...(A)>::Type());
    }
};

struct Register {
    Kernel kernel;
    Register(const char *name, Entry entry, const Parameter *parameters) : kernel{name, entry, parameters, nullptr} {
        add_kernel(&kernel);
    }
};

}  // namespace emulator

// Makes a kernel findable; its parameters' bindings follow its name.
#define REGISTER_KERNEL(N, NAME, ...)                                                                  \
    static const emulator::Parameter PARAMETERS##N[] = {__VA_ARGS__};                                  \
    static emulator::Register REGISTER##N(#NAME, &emulator::Call<decltype(NAME), &NAME>::entry, PARAMETERS##N);
// A variable in threadgroup memory: a type, declared where it stands.
#define THREADGROUP_VARIABLE(...)                                                        \
    ([]() -> Type<__VA_ARGS__> & {                                                            \
        static char key;                                                                 \
        return *(Type<__VA_ARGS__> *)emulator::shared(&key, sizeof(__VA_ARGS__));             \
    }())

// Says to what is included behind it that kernels run.
#define RUNS_KERNELS

#define kernel
#define device
#define constant const
#define threadgroup
#define thread
