// Packed weights as bf16 fragments of the matrix units' A operand.
//
// A tile is 16 rows x 64 columns. Lane 4 g + t holds rows g and g + 8; `a[kk][i]`
// is register i of the 16 columns from 16 kk: rows g, g + 8, g, g + 8 of slots
// 2t.. (i < 2) and 8 + 2t.. (i >= 2), which are columns 4t and 4t + 2, and 4t + 1
// and 4t + 3 (`slot_of`). Weights are rounded once, from f32 to bf16,
// but where it says otherwise.
#ifndef QUARREL_FRAGMENTS_H
#define QUARREL_FRAGMENTS_H

#include "places.h"

#define TILE_ROWS 16u
#define TILE_COLS 64u

struct TileFragment {
    uint a[4][4];
};

namespace fragments {

// 32768 + byte `i` of `word`, put together from the bits of the float.
FN float byte_above_32768(uint word, uint i) {
    return float_of_bits(__byte_perm(word, 0x47000000u, 0x7404u | i << 4));
}

// 128 + byte `i` of `word`, which is below 128.
FN float byte_above_128(uint word, uint i) {
    return float_of_bits(__byte_perm(word, 0x43000000u, 0x7044u | i << 8));
}

// The scale of bytes that have `bias`, a power of two from 8 on, added to them. (32768 + bias) * d has at
// most 24 significant bits, so that all products here are exact.
struct Scale {
    float d, offset;
    MEMBER Scale(float d, float bias) : d(d), offset(-(32768.0f + bias) * d) {}
    MEMBER float weight(uint word, uint i) const { return fmaf(byte_above_32768(word, i), d, offset); }
    MEMBER uint even(uint word) const { return pack_bf16(weight(word, 0), weight(word, 2)); }
    MEMBER uint odd(uint word) const { return pack_bf16(weight(word, 1), weight(word, 3)); }
};

// As `Scale` for bytes below 128 and weights `d * q + m`, in one operation: what is added to 128 d, rounded, is off by
// up to 2^-17 of d.
struct Affine {
    float d, offset;
    MEMBER Affine(float d, float m) : d(d), offset(fmaf(-128.0f, d, m)) {}
    MEMBER float weight(uint word, uint i) const { return fmaf(byte_above_128(word, i), d, offset); }
    MEMBER uint even(uint word) const { return pack_bf16(weight(word, 0), weight(word, 2)); }
    MEMBER uint odd(uint word) const { return pack_bf16(weight(word, 1), weight(word, 3)); }
};

// Sixteen columns from a word of row g and one of row g + 8.
template <typename S>
FN void unpack_words(uint word0, uint word1, S scale0, S scale1, uint *a) {
    a[0] = scale0.even(word0);
    a[1] = scale1.even(word1);
    a[2] = scale0.odd(word0);
    a[3] = scale1.odd(word1);
}

// Signed bytes as unsigned ones, 128 added.
FN uint biased(uint word) { return word ^ 0x80808080u; }

// 4 bits, a scale for each 32 columns. Scales are rounded to bfloat16 as well: an element
// is off by up to 2^-8 of itself, where one rounding leaves 2^-9.
struct P4 : Alone {
    static constexpr uint BYTES = 576;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        const uint4 w = load_quad(at.tile + 16 * lane);
        const uint2 d = load_pair(at.tile + 512 + 8 * (lane / 4));
        block(w.x, w.y, d.x, f.a);
        block(w.z, w.w, d.y, f.a + 2);
    }
    static MEMBER void block(uint w0, uint w1, uint d, uint (*a)[4]) {
        const uint both = pack_bf16(scale_of(d, 0), scale_of(d, 1));
        const uint d0 = __byte_perm(both, both, 0x1010), d1 = __byte_perm(both, both, 0x3232);
        columns(w0, w1, d0, d1, a[0]);
        columns(w0 >> 4, w1 >> 4, d0, d1, a[1]);
    }
    static MEMBER void columns(uint w0, uint w1, uint d0, uint d1, uint *a) {
        a[0] = scaled(w0, d0);
        a[1] = scaled(w1, d1);
        a[2] = scaled(w0 >> 8, d0);
        a[3] = scaled(w1 >> 8, d1);
    }
    // The lower nibbles of bytes 0 and 2, signed, times `d`. In the lower bits of 128 a nibble with 8 added
    // makes 136 with it; the difference is exact.
    static MEMBER uint scaled(uint w, uint d) {
        const uint one = 0x3f803f80u, minus_136 = 0xc308c308u, minus_0 = 0x80008000u;
        return fma_bf16(fma_bf16(and_xor(w, 0x000f000fu, 0x43084308u), one, minus_136), d, minus_0);
    }
};

// 2 bits, a scale and a minimum for each 16 columns.
struct P2A : Alone {
    static constexpr uint BYTES = 512;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        const uint2 w = load_pair(at.tile + 8 * lane);
        const uint4 d = load_quad(at.tile + 256 + 32 * (lane / 4)), m = load_quad(at.tile + 272 + 32 * (lane / 4));
        columns(w.x, w.y, d.x, m.x, f.a[0]);
        columns(w.x >> 2, w.y >> 2, d.y, m.y, f.a[1]);
        columns(w.x >> 4, w.y >> 4, d.z, m.z, f.a[2]);
        columns(w.x >> 6, w.y >> 6, d.w, m.w, f.a[3]);
    }
    static MEMBER void columns(uint w0, uint w1, uint d, uint m, uint *a) {
        const uint mask = 0x03030303u;
        const Affine s0(scale_of(d, 0), scale_of(m, 0)), s1(scale_of(d, 1), scale_of(m, 1));
        unpack_words(w0 & mask, w1 & mask, s0, s1, a);
    }
};

// 4 bits, a scale and a minimum for each 32 columns.
struct P4A : Alone {
    static constexpr uint BYTES = 640;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        const uint4 w = load_quad(at.tile + 16 * lane);
        const uint4 s = load_quad(at.tile + 512 + 16 * (lane / 4));
        block(w.x, w.y, s.x, s.z, f.a);
        block(w.z, w.w, s.y, s.w, f.a + 2);
    }
    static MEMBER void block(uint w0, uint w1, uint d, uint m, uint (*a)[4]) {
        const Affine s0(scale_of(d, 0), scale_of(m, 0)), s1(scale_of(d, 1), scale_of(m, 1));
        unpack_words(w0 & 0x0f0f0f0fu, w1 & 0x0f0f0f0fu, s0, s1, a[0]);
        unpack_words(w0 >> 4 & 0x0f0f0f0fu, w1 >> 4 & 0x0f0f0f0fu, s0, s1, a[1]);
    }
};

// The scales and offsets of a tile's two times 32 columns, whole numbers times floats that four tiles share: of rows g and
// g + 8. Products are exact.
struct Multiples {
    uint scales, offsets;  // bytes: both rows of the first 32 columns, then of the others
    float d[2], m[2];
    MEMBER void load(TileAt at, uint lane) {
        const uchar *own = at.shared + 32 * (lane / 4);
        const uint low = *(const uint *)(own + 4 * at.nth);
        const uint high = *(const uint *)(own + 16 + at.nth / 2 * 4) >> (at.nth % 2 * 4);
        scales = (low & 0x0f0f0f0fu) | (high << 4 & 0x30303030u);
        offsets = (low >> 4 & 0x0f0f0f0fu) | (high << 2 & 0x30303030u);
        const uint2 floats = load_pair(own + 24);
        d[0] = scale_of(floats.x, 0), d[1] = scale_of(floats.x, 1);
        m[0] = scale_of(floats.y, 0), m[1] = scale_of(floats.y, 1);
    }
    MEMBER float scale(uint block, uint row) const { return Scale(d[row], 0.0f).weight(scales, 2 * block + row); }
    MEMBER float offset(uint block, uint row) const { return Scale(m[row], 0.0f).weight(offsets, 2 * block + row); }
};

// As P4A where scales and offsets are multiples.
struct P4K : ByFour {
    static constexpr uint BYTES = 576;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        const uint4 w = load_quad(at.tile + 16 * lane);
        Multiples of;
        of.load(at, lane);
        block(w.x, w.y, of, 0, f.a);
        block(w.z, w.w, of, 1, f.a + 2);
    }
    static MEMBER void block(uint w0, uint w1, const Multiples &of, uint nth, uint (*a)[4]) {
        const Affine s0(of.scale(nth, 0), of.offset(nth, 0)), s1(of.scale(nth, 1), of.offset(nth, 1));
        unpack_words(w0 & 0x0f0f0f0fu, w1 & 0x0f0f0f0fu, s0, s1, a[0]);
        unpack_words(w0 >> 4 & 0x0f0f0f0fu, w1 >> 4 & 0x0f0f0f0fu, s0, s1, a[1]);
    }
};

// Signed bytes, a scale for each 32 columns.
struct P8 : Alone {
    static constexpr uint BYTES = 1088;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        const uint2 d = load_pair(at.tile + 1024 + 8 * (lane / 4));
        block(load_quad(at.tile + 16 * lane), d.x, f.a);
        block(load_quad(at.tile + 512 + 16 * lane), d.y, f.a + 2);
    }
    static MEMBER void block(uint4 w, uint d, uint (*a)[4]) {
        const Scale s0(scale_of(d, 0), 128.0f), s1(scale_of(d, 1), 128.0f);
        unpack_words(biased(w.x), biased(w.y), s0, s1, a[0]);
        unpack_words(biased(w.z), biased(w.w), s0, s1, a[1]);
    }
};

// In each byte a nibble of `w` and above it the bit of `upper` that is the `i`th from the top.
FN uint five_bits(uint w, uint upper, uint i) {
    return (w & 0x0f0f0f0fu) | ((i < 3 ? upper >> (3 - i) : upper << (i - 3)) & 0x10101010u);
}
// The same with the `i`th two of four times two bits.
FN uint six_bits(uint w, uint upper, uint i) {
    return (w & 0x0f0f0f0fu) | ((i == 0 ? upper >> 2 : upper << (2 * i - 2)) & 0x30303030u);
}

// 5 bits, a scale for each 32 columns.
struct P5 : Alone {
    static constexpr uint BYTES = 704;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        const uint4 w = load_quad(at.tile + 16 * lane);
        const uint upper = *(const uint *)(at.tile + 512 + 4 * lane);
        const uint2 d = load_pair(at.tile + 640 + 8 * (lane / 4));
        block(w.x, w.y, upper, 0, d.x, f.a);
        block(w.z, w.w, upper, 4, d.y, f.a + 2);
    }
    static MEMBER void block(uint w0, uint w1, uint upper, uint i, uint d, uint (*a)[4]) {
        const Scale s0(scale_of(d, 0), 16.0f), s1(scale_of(d, 1), 16.0f);
        unpack_words(above_16(w0, upper, i), above_16(w1, upper, i + 1), s0, s1, a[0]);
        unpack_words(above_16(w0 >> 4, upper, i + 2), above_16(w1 >> 4, upper, i + 3), s0, s1, a[1]);
    }
    // Signed numbers with 16 added.
    static MEMBER uint above_16(uint w, uint upper, uint i) { return five_bits(w, upper, i) ^ 0x10101010u; }
};

// 5 bits, a scale and a minimum for each 32 columns.
struct P5A : Alone {
    static constexpr uint BYTES = 768;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        const uint4 w = load_quad(at.tile + 16 * lane);
        const uint upper = *(const uint *)(at.tile + 512 + 4 * lane);
        const uint4 s = load_quad(at.tile + 640 + 16 * (lane / 4));
        block(w.x, w.y, upper, 0, s.x, s.z, f.a);
        block(w.z, w.w, upper, 4, s.y, s.w, f.a + 2);
    }
    static MEMBER void block(uint w0, uint w1, uint upper, uint i, uint d, uint m, uint (*a)[4]) {
        const Affine s0(scale_of(d, 0), scale_of(m, 0)), s1(scale_of(d, 1), scale_of(m, 1));
        unpack_words(five_bits(w0, upper, i), five_bits(w1, upper, i + 1), s0, s1, a[0]);
        unpack_words(five_bits(w0 >> 4, upper, i + 2), five_bits(w1 >> 4, upper, i + 3), s0, s1, a[1]);
    }
};

// 4 or 6 bits, a scale for each 16 columns.
template <bool SIX> struct Short : Alone {
    static constexpr uint BYTES = SIX ? 896 : 640;
    static constexpr float BIAS = SIX ? 32.0f : 8.0f;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        const uint4 w = load_quad(at.tile + 16 * lane), d = load_quad(at.tile + BYTES - 128 + 16 * (lane / 4));
        uint2 upper = {0, 0};
        if (SIX) upper = load_pair(at.tile + 512 + 8 * lane);
        columns(w.x, w.y, upper.x, 0, d.x, f.a[0]);
        columns(w.x >> 4, w.y >> 4, upper.x, 2, d.y, f.a[1]);
        columns(w.z, w.w, upper.y, 0, d.z, f.a[2]);
        columns(w.z >> 4, w.w >> 4, upper.y, 2, d.w, f.a[3]);
    }
    static MEMBER void columns(uint w0, uint w1, uint upper, uint i, uint d, uint *a) {
        unpack_words(biased(w0, upper, i), biased(w1, upper, i + 1), Scale(scale_of(d, 0), BIAS), Scale(scale_of(d, 1), BIAS), a);
    }
    // Signed numbers with `BIAS` added.
    static MEMBER uint biased(uint w, uint upper, uint i) {
        return SIX ? six_bits(w, upper, i) ^ 0x20202020u : (w & 0x0f0f0f0fu) ^ 0x08080808u;
    }
};
typedef Short<false> P4S;
typedef Short<true> P6S;

// bf16, fragments as they are.
struct P16 : Alone {
    static constexpr uint BYTES = 2048;
    static MEMBER void unpack(TileAt at, uint lane, TileFragment &f) {
        UNROLL
        for (uint kk = 0; kk < 4; kk++) {
            const uint4 w = load_quad(at.tile + 512 * kk + 16 * lane);
            f.a[kk][0] = w.x;
            f.a[kk][1] = w.y;
            f.a[kk][2] = w.z;
            f.a[kk][3] = w.w;
        }
    }
};

} // namespace fragments

#endif
