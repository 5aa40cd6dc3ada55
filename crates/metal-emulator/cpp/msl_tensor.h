// The part of Metal 4's tensors and tensor operations that the kernels use, in Metal's words, behind
// `msl_check.h` or `msl_run.h`. Written from what the comments of Apple's public header say and from public uses
// of it, and never compared with what that does: what is stricter here than there (extents that are a tile's
// exactly, operations of all SIMD-groups of a threadgroup) is so that a mistake shows itself.
#pragma once

namespace metal {

// Sizes, columns first.
template <typename Index, ulong RANK> struct dextents;
template <typename Index> struct dextents<Index, 2> {
    Index first, second;

    constexpr dextents(Index first, Index second) : first(first), second(second) {}
};

// A tensor made where it stands, of memory whose columns follow each other.
struct tensor_inline {};
template <typename T, typename Extents, typename Kind> struct tensor;
template <typename T, typename Index> struct tensor<T, dextents<Index, 2>, tensor_inline> {
    typedef T Element;
    T *memory;
    dextents<Index, 2> extents;

    tensor(T *memory, dextents<Index, 2> extents) : memory(memory), extents(extents) {}
};

// Who does an operation: all threads of so many SIMD-groups.
template <int N> struct execution_simdgroups {
    enum { COUNT = N };
};
typedef execution_simdgroups<1> execution_simdgroup;

}  // namespace metal

namespace emulator {

// A type without its address space.
template <typename T> struct Plain {
    typedef T Type;
};
#ifndef RUNS_KERNELS
template <typename T> struct Plain<threadgroup T> {
    typedef T Type;
};
template <typename T> struct Plain<device T> {
    typedef T Type;
};
#endif

template <typename A, typename B> struct IsSame {
    enum { YES = 0 };
};
template <typename A> struct IsSame<A, A> {
    enum { YES = 1 };
};

// What is multiplied with what into floats, of the pairs that are documented.
template <typename A, typename B> struct MultipliesTensors {
    enum { YES = 0 };
};
template <> struct MultipliesTensors<half, half> {
    enum { YES = 1 };
};
template <> struct MultipliesTensors<half, float> {
    enum { YES = 1 };
};
template <> struct MultipliesTensors<float, half> {
    enum { YES = 1 };
};
template <> struct MultipliesTensors<float, float> {
    enum { YES = 1 };
};

template <typename Scope> struct SimdgroupsOf {
    enum { COUNT = 0 };
};
template <int N> struct SimdgroupsOf<metal::execution_simdgroups<N>> {
    enum { COUNT = N };
};

}  // namespace emulator

#ifdef RUNS_KERNELS
#include "msl_tensor_run.h"
#endif

namespace mpp {
namespace tensor_ops {

// Sizes of a product of matrices: `m` rows and `n` columns of the result, `k` columns that are added up.
struct matmul2d_descriptor {
    enum class mode { multiply, multiply_accumulate };
    int m, n, k;
    bool transpose_left, transpose_right, relaxed_precision;
    mode matmul_mode;

    constexpr matmul2d_descriptor(int m, int n, int k, bool transpose_left = false, bool transpose_right = false,
                                  bool relaxed_precision = false, mode matmul_mode = mode::multiply)
        : m(m), n(n), k(k), transpose_left(transpose_left), transpose_right(transpose_right),
          relaxed_precision(relaxed_precision), matmul_mode(matmul_mode) {}
    // As an argument of a template, which C++17 takes numbers for.
    constexpr operator ulong() const {
        return ulong(m) | ulong(n) << 16 | ulong(k) << 32 | ulong(transpose_left) << 48 | ulong(transpose_right) << 49 |
               ulong(relaxed_precision) << 50 | ulong(matmul_mode == mode::multiply_accumulate) << 51;
    }
};

template <ulong DESCRIPTOR, typename Scope> struct matmul2d;

}  // namespace tensor_ops
}  // namespace mpp

namespace metal {

// A result whose elements the threads of an operation's scope share out between them, as it pleases them:
// thread by thread some, of which not all need be there.
template <typename T, typename Operation, typename Left, typename Right> struct cooperative_tensor {
#ifdef RUNS_KERNELS
    emulator::Share<T, Operation> share;

    ushort get_capacity() const { return share.CAPACITY; }
    bool is_valid_element(ushort i) const { return share.is_valid(i); }
    thread T &operator[](ushort i) { return share.at(i); }
    template <typename To> __attribute__((noinline, convergent)) void store(thread To &to) const {
        share.store(to, __builtin_return_address(0));
    }
#else
    ushort get_capacity() const;
    bool is_valid_element(ushort) const;
    thread T &operator[](ushort);
    template <typename To> void store(thread To &) const {
        static_assert(emulator::IsSame<typename emulator::Plain<typename To::Element>::Type, T>::YES,
                      "a result is stored as what it is");
    }
#endif
};

}  // namespace metal

namespace mpp {
namespace tensor_ops {

// A product of matrices.
template <ulong DESCRIPTOR, typename Scope> struct matmul2d {
    enum {
        M = DESCRIPTOR & 0xffff,
        N = DESCRIPTOR >> 16 & 0xffff,
        K = DESCRIPTOR >> 32 & 0xffff,
        TRANSPOSES_LEFT = DESCRIPTOR >> 48 & 1,
        TRANSPOSES_RIGHT = DESCRIPTOR >> 49 & 1,
        ADDS = DESCRIPTOR >> 51 & 1,
        SIMDGROUPS = emulator::SimdgroupsOf<Scope>::COUNT,
    };
    static_assert(SIMDGROUPS > 0, "an operation's scope is a number of SIMD-groups");

    template <typename Left, typename Right, typename T>
    metal::cooperative_tensor<T, matmul2d, Left, Right> get_destination_cooperative_tensor() const {
        static_assert(emulator::MultipliesTensors<typename emulator::Plain<typename Left::Element>::Type,
                                                  typename emulator::Plain<typename Right::Element>::Type>::YES,
                      "tensors of these types are not multiplied with each other");
        static_assert(emulator::IsSame<T, float>::YES, "results are floats");
        return metal::cooperative_tensor<T, matmul2d, Left, Right>();
    }
    template <typename Left, typename Right, typename T>
#ifdef RUNS_KERNELS
    __attribute__((noinline, convergent))
#endif
    void run(thread Left &left, thread Right &right,
             thread metal::cooperative_tensor<T, matmul2d, Left, Right> &to) const {
#ifdef RUNS_KERNELS
        to.share.multiply(left, right, __builtin_return_address(0));
#endif
    }
};

}  // namespace tensor_ops
}  // namespace mpp
