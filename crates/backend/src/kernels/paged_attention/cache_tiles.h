// Positions of the cache in shared memory, and the operands that tensor cores
// (mma.m16n8k16) take of them. Lane 4 g + t of a warp is (g, t) below. CUDA only.
#ifndef QUARREL_CACHE_TILES_H
#define QUARREL_CACHE_TILES_H

#include "cache.h"
#include "copies.h"

// Positions that are copied together: they lie one after another in a page, whose size is
// a multiple of this, and take a multiple of 16 bytes.
#define RUN 16

// Sixteen bytes to shared memory; what follows them will be wanted too.
FN void copy_ahead(void *to, const void *from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
                 : "memory");
#else
    asm volatile("trap;");
#endif
}

// Four 8x8 matrices of 16-bit elements; each lane names a row of one of them.
FN void load_matrices(uint (&r)[4], const uchar *row) {
#if __CUDA_ARCH__ >= 800
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
#endif
}
FN void load_matrices_transposed(uint (&r)[4], const uchar *row) {
#if __CUDA_ARCH__ >= 800
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
#endif
}

// The two kinds of numbers that tensor cores multiply here, in pairs.
struct Halves {
    static constexpr bool IS_BFLOAT = false;
    static MEMBER uint pack(float low, float high) {
        uint pair = 0;
#if __CUDA_ARCH__ >= 800
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
        return pair;
    }
    static MEMBER float low(uint pair) { return half_to_float(ushort(pair)); }
    static MEMBER float high(uint pair) { return half_to_float(ushort(pair >> 16)); }
    static MEMBER void mma(float (&c)[4], const uint (&a)[4], uint b0, uint b1) {
#if __CUDA_ARCH__ >= 800
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
    }
};
struct Bfloats {
    static constexpr bool IS_BFLOAT = true;
    static MEMBER uint pack(float low, float high) { return pack_bf16(low, high); }
    static MEMBER float low(uint pair) { return float_of_bits(pair << 16); }
    static MEMBER float high(uint pair) { return float_of_bits(pair & 0xffff0000); }
    static MEMBER void mma(float (&c)[4], const uint (&a)[4], uint b0, uint b1) {
#if __CUDA_ARCH__ >= 800
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
    }
};

// What is left of two numbers where a pair has been taken off them: in two pairs they lose nothing that matters.
template <typename Numbers> FN uint pack_rest(uint pair, float low, float high) {
    return Numbers::pack(low - Numbers::low(pair), high - Numbers::high(pair));
}

// A run of positions from row `row` on, copied by `N` threads, of which this is the `index`th.
template <typename Tile, uint N> FN void copy_run(uchar *tile, uint row, const uchar *from, uint index) {
    // Where a thread's pieces are whole rows apart, their addresses differ by what the compiler knows.
    constexpr bool is_dense = Tile::STRIDE == Tile::BYTES, is_even = is_dense || (Tile::STRIDE > 0 && N % (Tile::BYTES / 16) == 0);
    uchar *own = tile + Tile::piece(row, index);
    from += 16 * index;
    UNROLL
    for (uint first = 0; first < Tile::BYTES; first += N) {
        const uint apart = is_dense ? 16 * first : first / (Tile::BYTES / 16) * Tile::STRIDE;
        uchar *to = is_even ? own + apart : tile + Tile::piece(row, first + index);
        if (first + N <= Tile::BYTES || first + index < Tile::BYTES) copy_ahead(to, from + 16 * first);
    }
}

// Elements of 16 bits, for ldmatrix: rows are 16 bytes longer, so that eight of them are in all banks.
template <typename Numbers_, uint DIM> struct WideTile {
    typedef Numbers_ Numbers;
    static constexpr bool IS_WIDE = true;
    static constexpr uint BYTES = 2 * DIM, STRIDE = BYTES + 16;
    static constexpr float FACTOR = 1;

    // Where eight dimensions of a row are.
    static MEMBER uint at(uint row, uint eight) { return row * STRIDE + 16 * eight; }
    // Where the `i`th 16 bytes of rows from `row` on go.
    static MEMBER uint piece(uint row, uint i) { return at(row + i / (DIM / 8), i % (DIM / 8)); }
    // Operands A that are loaded at once, of positions by dimensions, and of dimensions by positions at most.
    static constexpr uint K_TOGETHER = 1, MOST_M_TOGETHER = 1;
    // Operand A of 16 positions by 16 dimensions.
    static MEMBER void positions(uint (*a)[4], const uchar *tile, uint position, uint dim, uint lane) {
        load_matrices(*a, tile + at(position, dim / 8) + at(lane % 16, lane / 16));
    }
    // Operand A of 16 dimensions by 16 positions.
    template <uint TOGETHER> static MEMBER void dimensions(uint (*a)[4], const uchar *tile, uint position, uint dim, uint lane) {
        load_matrices_transposed(*a, tile + at(position, dim / 8) + at(lane / 16 * 8 + lane % 8, lane / 8 % 2));
    }
    // The first of the two dimensions in register `r` of the operand B that meets the `k`th of `positions`.
    static MEMBER uint first_dim(uint k, uint t, uint r) { return 2 * t + 8 * r; }
    // The dimension of the row g (half 0) or g + 8 (half 1) of the `m`th of TOGETHER of `dimensions`.
    template <uint TOGETHER> static MEMBER uint row_dim(uint, uint g, uint half) { return g + 8 * half; }
};

// E4M3 as halves 2^-8 of it.
template <uint DIM> struct Fp8Codec {
    static constexpr uint BYTES = DIM, STRIDE = DIM + 16;
    static constexpr float FACTOR = 256;
    static MEMBER uint scale(const uchar *, uint) { return 0; }
    // Four bytes as two pairs.
    static MEMBER void widen(uint bytes, uint &first, uint &second) {
        const uint x = __byte_perm(bytes, 0, 0x1404), y = __byte_perm(bytes, 0, 0x3424);
        first = (x & 0x80008000) | ((x & 0x7f007f00) >> 1);
        second = (y & 0x80008000) | ((y & 0x7f007f00) >> 1);
    }
    static MEMBER uint scaled(uint pair, uint) { return pair; }
};

FN uint multiply_halves(uint a, uint b) {
    uint c;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
    return c;
}

template <uint DIM> struct Q8_0Codec {
    static constexpr uint BYTES = DIM + 2 * ((DIM + KV_GROUP - 1) / KV_GROUP), STRIDE = BYTES;
    static constexpr float FACTOR = 1;
    static MEMBER uint scale(const uchar *row, uint dim) {
        return *(const ushort *)(row + DIM + dim / KV_GROUP * 2);
    }
    static MEMBER void widen(uint bytes, uint &first, uint &second) {
        // 1024 + (q + 128) as a half is 0x6400 + (q + 128); 1152 taken off it is exactly q.
        bytes ^= 0x80808080;
        const uint x = __byte_perm(bytes, 0x64646464, 0x4140), y = __byte_perm(bytes, 0x64646464, 0x4342);
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(first) : "r"(x), "r"(0x64806480));
        asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(second) : "r"(y), "r"(0x64806480));
    }
    static MEMBER uint scaled(uint pair, uint scales) { return multiply_halves(pair, scales); }
};

// Elements of 8 bits, which become halves when they are loaded. Lanes take neighbouring dimensions, as many
// at once as there are: mma does not care which dimension is which, as long as both operands agree.
template <typename Codec, uint DIM> struct ByteTile {
    typedef Halves Numbers;
    static constexpr bool IS_WIDE = false;
    static constexpr uint BYTES = Codec::BYTES, STRIDE = Codec::STRIDE;
    static constexpr float FACTOR = Codec::FACTOR;
    static constexpr uint K_TOGETHER = DIM % 32 == 0 ? 2 : 1, MOST_M_TOGETHER = K_TOGETHER;

    static MEMBER uint piece(uint row, uint i) {
        if (STRIDE == BYTES) return row * STRIDE + 16 * i;
        return (row + i / (BYTES / 16)) * STRIDE + i % (BYTES / 16) * 16;
    }
    // Four bytes of a row, from a multiple of four on.
    static MEMBER uint word(const uchar *at) {
        if (STRIDE % 4 == 0) return *(const uint *)at;
        return ((const ushort *)at)[0] | uint(((const ushort *)at)[1]) << 16;
    }
    static MEMBER uint2 two_words(const uchar *at) {
        if (STRIDE % 8 == 0) return *(const uint2 *)at;
        const uint2 words = {word(at), word(at + 4)};
        return words;
    }
    // Four elements from `bytes`.
    static MEMBER uint2 widen(uint bytes, uint scales) {
        uint2 pairs;
        Codec::widen(bytes, pairs.x, pairs.y);
        pairs.x = Codec::scaled(pairs.x, scales), pairs.y = Codec::scaled(pairs.y, scales);
        return pairs;
    }
    // Eight elements.
    static MEMBER uint4 load(const uchar *row, uint dim) {
        const uint2 words = two_words(row + dim);
        const uint scales = Codec::scale(row, dim) * 0x10001;
        const uint2 first = widen(words.x, scales), second = widen(words.y, scales);
        const uint4 eight = {first.x, first.y, second.x, second.y};
        return eight;
    }

    static MEMBER void positions(uint (*a)[4], const uchar *tile, uint position, uint dim, uint lane) {
        UNROLL
        for (uint half = 0; half < 2; half++) {
            const uchar *row = tile + (position + 8 * half) * STRIDE + lane / 4 * STRIDE;
            const uint scales = Codec::scale(row, dim) * 0x10001;
            const uchar *at = row + dim + 4 * K_TOGETHER * (lane % 4);
            uint2 words = {0, 0};
            if (K_TOGETHER == 1) words.x = word(at);
            else words = two_words(at);
            UNROLL
            for (uint k = 0; k < K_TOGETHER; k++) {
                const uint2 pairs = widen(k == 0 ? words.x : words.y, scales);
                a[k][half] = pairs.x, a[k][half + 2] = pairs.y;
            }
        }
    }
    template <uint TOGETHER> static MEMBER void dimensions(uint (*a)[4], const uchar *tile, uint position, uint dim, uint lane) {
        UNROLL
        for (uint i = 0; i < 2; i++) {
            const uchar *row = tile + (position + 8 * i) * STRIDE + 2 * (lane % 4) * STRIDE, *next = row + STRIDE;
            const uint at = dim + 2 * TOGETHER * (lane / 4);
            const uint scales = Codec::scale(row, dim) | Codec::scale(next, dim) << 16;
            uint x, y;
            if (TOGETHER == 1) x = *(const ushort *)(row + at), y = *(const ushort *)(next + at);
            else x = word(row + at), y = word(next + at);
            UNROLL
            for (uint m = 0; m < TOGETHER; m++) {
                // Two dimensions of both positions.
                const uint2 pairs = widen(__byte_perm(x, y, m == 0 ? 0x5140 : 0x7362), scales);
                a[m][2 * i] = pairs.x, a[m][2 * i + 1] = pairs.y;
            }
        }
    }
    static MEMBER uint first_dim(uint k, uint t, uint r) { return 4 * K_TOGETHER * t + 4 * k + 2 * r; }
    template <uint TOGETHER> static MEMBER uint row_dim(uint m, uint g, uint half) { return 2 * TOGETHER * g + 2 * m + half; }
};

// How a format's positions lie in shared memory.
template <typename Kv, uint DIM> struct TileOf;
template <uint DIM> struct TileOf<KvF16, DIM> {
    typedef WideTile<Halves, DIM> Tile;
};
template <uint DIM> struct TileOf<KvBF16, DIM> {
    typedef WideTile<Bfloats, DIM> Tile;
};
template <uint DIM> struct TileOf<KvQ8_0, DIM> {
    typedef ByteTile<Q8_0Codec<DIM>, DIM> Tile;
};
template <uint DIM> struct TileOf<KvFP8, DIM> {
    typedef ByteTile<Fp8Codec<DIM>, DIM> Tile;
};

#endif
