// Products of bfloat16 matrices for prompt rows, as PTX.
//
// MATRIX_UNIT says what there is: 90 for warpgroup products with asynchronous
// accumulators, 80 for products of a warp, 0 for none.
#ifndef QUARREL_MATRIX_H
#define QUARREL_MATRIX_H

#include "copies.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MATRIX_UNIT 90
#elif __CUDA_ARCH__ >= 800
#define MATRIX_UNIT 80
#else
#define MATRIX_UNIT 0
#endif

#if MATRIX_UNIT >= 80

// Of the 256 threads that multiply.
FN void workers_barrier() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

#endif

#if MATRIX_UNIT == 80

// Four 8 x 8 matrices of 16-bit elements; lanes 8 i .. 8 i + 7 name matrix i's rows.
FN void load_matrices(uint (&b)[4], uint address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address)
                 : "memory");
}

// d += a * b: 16 rows, 8 columns, 16 deep.
FN void multiply_16x8(float *d, const uint *a, uint b0, uint b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#elif MATRIX_UNIT == 90

// Registers a thread of this warpgroup has from here on.
template <uint N>
FN void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <uint N>
FN void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

// Around products: registers before are written, a batch ends, at most N batches are under way.
FN void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FN void products_end() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <uint N>
FN void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// A matrix of 128-byte rows in shared memory, 16-byte chunk c of row r at place
// c ^ (r & 7), the start aligned to 1024 bytes. Each step of 16 columns is 2 more.
FN ulong swizzled_matrix(uint address) {
    const ulong rows_8_apart = 1024 >> 4, swizzle_128 = 1;
    return ulong((address & 0x3ffff) >> 4) | 1ull << 16 | rows_8_apart << 32 | swizzle_128 << 62;
}

#define FLOATS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FLOATS_16(i) FLOATS_4(i), FLOATS_4(i + 4), FLOATS_4(i + 8), FLOATS_4(i + 12)
#define FLOATS_32(i) FLOATS_16(i), FLOATS_16(i + 16)
#define FLOATS_64(i) FLOATS_32(i), FLOATS_32(i + 32)
#define PRODUCT(SIZE, D, A, B, ADD)                                                                      \
    "{.reg .pred add; setp.ne.b32 add, " ADD ", 0;\n"                                                    \
    "wgmma.mma_async.sync.aligned.m64n" SIZE "k16.f32.bf16.bf16 {" D "}, {" A "}, " B ", add, 1, 1, 0;}\n"
#define D_4 "%0, %1, %2, %3"
#define D_8 D_4 ", %4, %5, %6, %7"
#define D_16 D_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define D_32                                                                                             \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define D_64                                                                                              \
    D_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "   \
         "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define D_128                                                                                             \
    D_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "   \
         "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "     \
         "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, "     \
         "%115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d += a * b, or d = a * b where not to `add`, later: 64 rows (a warp's 16 each), 2 N columns, 16 deep, for N floats a thread.
FN void multiply(float (&d)[4], const uint *a, ulong b, uint add = 1) {
    asm volatile(PRODUCT("8", D_4, "%4, %5, %6, %7", "%8", "%9")
                 : FLOATS_4(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
FN void multiply(float (&d)[8], const uint *a, ulong b, uint add = 1) {
    asm volatile(PRODUCT("16", D_8, "%8, %9, %10, %11", "%12", "%13")
                 : FLOATS_4(0), FLOATS_4(4)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
FN void multiply(float (&d)[16], const uint *a, ulong b, uint add = 1) {
    asm volatile(PRODUCT("32", D_16, "%16, %17, %18, %19", "%20", "%21")
                 : FLOATS_16(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
FN void multiply(float (&d)[32], const uint *a, ulong b, uint add = 1) {
    asm volatile(PRODUCT("64", D_32, "%32, %33, %34, %35", "%36", "%37")
                 : FLOATS_32(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
FN void multiply(float (&d)[64], const uint *a, ulong b, uint add = 1) {
    asm volatile(PRODUCT("128", D_64, "%64, %65, %66, %67", "%68", "%69")
                 : FLOATS_64(0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}
FN void multiply(float (&d)[128], const uint *a, ulong b, uint add = 1) {
    asm volatile(PRODUCT("256", D_128, "%128, %129, %130, %131", "%132", "%133")
                 : FLOATS_64(0), FLOATS_64(64)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

// Keeps uses of the accumulators behind the wait before it.
template <uint N>
FN void settle(float (&d)[N]) {
    UNROLL
    for (uint i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

#endif
#endif
