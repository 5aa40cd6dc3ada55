// Products of warpgroups (four warps, 64 rows) on Hopper: both operands in shared memory, or the first in
// registers. Accumulators lie as those of mma.m16n8k16, a warp's rows after another's. CUDA only.
#ifndef QUARREL_WARPGROUP_H
#define QUARREL_WARPGROUP_H

#include "cache_tiles.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WARPGROUPS true
#else
#define HAS_WARPGROUPS false
#endif

// Elements of 16 bits as warpgroups read them: for each 64 dimensions rows of 128 bytes, in which the eight
// 16-byte pieces change places with the row.
template <typename Numbers_, uint DIM, uint ROWS> struct SwizzledTile {
    typedef Numbers_ Numbers;
    // Rows are not apart by the same bytes in all of their pieces.
    static constexpr uint BYTES = 2 * DIM, STRIDE = 0, SIZE = ROWS * BYTES;
    static MEMBER uint at(uint row, uint eight) {
        return eight / 8 * ROWS * 128 + row * 128 + ((eight ^ row) % 8) * 16;
    }
    static MEMBER uint piece(uint row, uint i) { return at(row + i / (DIM / 8), i % (DIM / 8)); }
};
template <typename Numbers, uint DIM, uint ROWS> struct PaddedTile : WideTile<Numbers, DIM> {
    static constexpr uint SIZE = ROWS * WideTile<Numbers, DIM>::STRIDE;
};

template <bool FIRST, typename A, typename B> struct Choice {
    typedef A Type;
};
template <typename A, typename B> struct Choice<false, A, B> {
    typedef B Type;
};
template <bool GROUPS, typename Numbers, uint DIM, uint ROWS>
using TileFor = typename Choice<GROUPS, SwizzledTile<Numbers, DIM, ROWS>, PaddedTile<Numbers, DIM, ROWS>>::Type;

// What threads wrote to shared memory becomes visible to the matrix units.
FN void publish_shared() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A tile as the units name it: eight rows take 1024 bytes, 64 dimensions `bytes`.
FN ulong describe(const uchar *tile, uint bytes) {
    const ulong start = (shared_address(tile) & 0x3ffff) >> 4;
    return start | ulong(bytes >> 4) << 16 | ulong(1024 >> 4) << 32 | 1ull << 62;
}

#define FLOATS(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define FLOATS_16(i) FLOATS(i), FLOATS(i + 1), FLOATS(i + 2), FLOATS(i + 3)
#define FLOATS_32(i) FLOATS_16(i), FLOATS_16(i + 4)
#define FLOATS_64(i) FLOATS_32(i), FLOATS_32(i + 8)
#define D_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define D_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, " \
    "%60, %61, %62, %63"
#define GROUP_PRODUCT(N, TYPE, D, A, B, ADD, TRANSPOSED)                                     \
    "{.reg .pred add; setp.ne.b32 add, " ADD ", 0;\n"                                        \
    "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." TYPE "." TYPE " {" D "}, " A ", " B     \
    ", add, 1, 1, " TRANSPOSED ";}"

// d += or = a * b, later: 64 rows, 64 columns, 16 deep; b's rows are the columns.
template <typename Numbers> FN void group_product(float (&d)[8][4], ulong a, ulong b, int add) {
#define PRODUCT(TYPE)                                                              \
    asm volatile(GROUP_PRODUCT("64", TYPE, D_32, "%32", "%33", "%34", "0, 0")      \
                 : FLOATS_32(0) : "l"(a), "l"(b), "r"(add))
    if constexpr (Numbers::IS_BFLOAT) PRODUCT("bf16");
    else PRODUCT("f16");
#undef PRODUCT
}

// d += a * b, later; b's rows are what is summed over.
template <typename Numbers> FN void group_product(float (&d)[8][4], const uint (&a)[4], ulong b) {
#define PRODUCT(TYPE)                                                                             \
    asm volatile(GROUP_PRODUCT("64", TYPE, D_32, "{%32, %33, %34, %35}", "%36", "%37", "1")       \
                 : FLOATS_32(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
    if constexpr (Numbers::IS_BFLOAT) PRODUCT("bf16");
    else PRODUCT("f16");
#undef PRODUCT
}
// The same for 128 columns, from d's eighth `FIRST` on.
template <typename Numbers, uint FIRST, uint N>
FN void group_product_128(float (&all)[N][4], const uint (&a)[4], ulong b) {
    float (*d)[4] = all + FIRST;
#define PRODUCT(TYPE)                                                                             \
    asm volatile(GROUP_PRODUCT("128", TYPE, D_64, "{%64, %65, %66, %67}", "%68", "%69", "1")      \
                 : FLOATS_64(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1))
    if constexpr (Numbers::IS_BFLOAT) PRODUCT("bf16");
    else PRODUCT("f16");
#undef PRODUCT
}

// Keeps uses of accumulators on their side of a fence or wait.
template <uint N> FN void settle(float (&d)[N][4]) {
    UNROLL
    for (uint i = 0; i < 4 * N; i++) asm volatile("" : "+f"(d[i / 4][i % 4])::"memory");
}
FN void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
FN void finish_products() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}

// Products of 64 rows of a 128-row tile with the 64 rows of another.
template <typename Numbers, uint DIM> FN void multiply_tiles(float (&d)[8][4], const uchar *a, const uchar *b) {
    begin_products();
    UNROLL
    for (uint k = 0; k < DIM / 16; k++) {
        const ulong rows = describe(a + k / 4 * 128 * 128 + k % 4 * 32, 0);
        group_product<Numbers>(d, rows, describe(b + k / 4 * 64 * 128 + k % 4 * 32, 0), k > 0);
    }
    finish_products();
    settle(d);
}

// Adds the ROWS rows of a tile, weighted by the shares in `a`.
template <typename Numbers, uint ROWS, uint N>
FN void add_weighted(float (&d)[N][4], const uint (&a)[ROWS / 16][4], const uchar *tile) {
    settle(d);
    begin_products();
    UNROLL
    for (uint k = 0; k < ROWS / 16; k++) {
        const uchar *rows = tile + k * 16 * 128;
        if constexpr (N == 8) group_product<Numbers>(d, a[k], describe(rows, ROWS * 128));
        else group_product_128<Numbers, 0>(d, a[k], describe(rows, ROWS * 128));
        if constexpr (N == 32) group_product_128<Numbers, 16>(d, a[k], describe(rows + 2 * ROWS * 128, ROWS * 128));
    }
    finish_products();
    settle(d);
}

#else

template <typename Numbers, uint DIM> FN void multiply_tiles(float (&)[8][4], const uchar *, const uchar *) {}
template <typename Numbers, uint ROWS, uint N>
FN void add_weighted(float (&)[N][4], const uint (&)[ROWS / 16][4], const uchar *) {}

#endif
#endif
