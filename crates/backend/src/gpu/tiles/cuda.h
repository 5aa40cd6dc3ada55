// What the kernels over tiles use of CUDA alone.
#ifndef QUARREL_CUDA_H
#define QUARREL_CUDA_H

#include "dialect.h"

// Lets the next kernel of the step begin; it may do what needs nothing of this one.
FN void allow_next() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits for what earlier kernels of the step have written. Every block of a kernel comes
// by here before it ends, so that a kernel's end is the end of all before it too.
FN void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The threads of a block that compute: all, but where a kernel says how many.
#ifdef COMPUTING_THREADS
FN uint n_threads() { return COMPUTING_THREADS; }
FN void block_barrier() { asm volatile("bar.sync 5, %0;" ::"n"(COMPUTING_THREADS) : "memory"); }
#else
FN uint n_threads() { return blockDim.x; }
FN void block_barrier() { group_barrier(); }
#endif

FN uint4 load_quad(const uchar *from) { return *(const uint4 *)from; }
FN uint2 load_pair(const uchar *from) { return *(const uint2 *)from; }

// The lower or upper of two f16 numbers.
FN float scale_of(uint pair, uint upper) { return half_to_float(ushort(upper ? pair >> 16 : pair & 0xffff)); }

FN uint pack_bf16(float low, float high) {
#if __CUDA_ARCH__ >= 800
    uint pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return uint(float_to_bfloat(low)) | uint(float_to_bfloat(high)) << 16;
#endif
}

// a * b + c of two pairs of bfloat16, rounded once.
FN uint fma_bf16(uint a, uint b, uint c) {
#if __CUDA_ARCH__ >= 800
    uint pair;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
    return pair;
#else
    asm volatile("trap;");
    return 0;
#endif
}

// (a & b) ^ c in one instruction, which the compiler does not find where b and c are constants.
FN uint and_xor(uint a, uint b, uint c) {
    uint d;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

// NaN if either is.
FN float larger_or_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
    float c;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
#else
    return a != a || b != b ? float_of_bits(0x7fffffff) : fmaxf(a, b);
#endif
}

// Integer products of a tile's 16 rows by 32 columns with 8 columns of activations.
FN void mma_int8(int (&sums)[4], uint a0, uint a1, uint a2, uint a3, uint b0, uint b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%10, %10, %10, %10};"
                 : "=r"(sums[0]), "=r"(sums[1]), "=r"(sums[2]), "=r"(sums[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(0));
#else
    asm volatile("trap;");
#endif
}

// As `mma_int8`, of 16 columns.
FN void mma_int8_half(int (&sums)[4], uint a0, uint a1, uint b0) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
                 : "=r"(sums[0]), "=r"(sums[1]), "=r"(sums[2]), "=r"(sums[3])
                 : "r"(a0), "r"(a1), "r"(b0), "r"(0));
#else
    asm volatile("trap;");
#endif
}

// Adds the products of 16 rows by 16 columns with 8 columns of activations, all in bfloat16.
FN void mma_bf16(float (&sums)[4], uint4 a, uint b0, uint b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
#else
    asm volatile("trap;");
#endif
}

#endif
