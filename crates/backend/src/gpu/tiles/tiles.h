// Tiles of 16 rows by 64 columns, as `pack.rs` writes them, times generated
// rows. Every packing says how its tile adds to the sums of 16 outputs of
// eight rows: integers exactly for each block, the blocks in order as floats.
#ifndef QUARREL_TILES_H
#define QUARREL_TILES_H

#include "split_tiles.h"

// What a lane holds of 64 columns of eight quantised rows, or of a single one, which then
// stands in all eight places. What is in the place of a row that is not there does not
// matter: every row has sums of its own.
template <bool SINGLE> struct QuantisedRows {
    enum {
        BYTES = QUANTISED_BYTES,
        // In shared memory a single row's are close together.
        SHARED_BYTES = SINGLE ? 96 : QUANTISED_BYTES,
        // Columns of a lane's sums that matter.
        COLS = SINGLE ? 1 : 2
    };
    uint q[4];
    float d[4], sum[4];

    // A single row's four columns from `col` on, times `scale`, to its tile in shared memory.
    static MEMBER void put(uchar *tile, uint col, float4 v, float scale = 1) {
        const RoundedFour rounded(v, scale);
        const uint block = col / 32 % 2, half = col / 16 % 2, t = col % 16 / 4;
        ((uint *)tile)[4 * t + 2 * block + half] = rounded.word;
        if (col % 32 == 0) ((float *)tile)[16 + 2 * block] = rounded.d, ((float *)tile)[20 + 2 * block] = rounded.sum;
    }

    template <bool AFFINE> MEMBER void load(const uchar *from, uint lane) {
        load_words(from, lane);
        load_scales<AFFINE>(from, lane);
    }
    MEMBER void load_words(const uchar *from, uint lane) {
        const uint4 v = load_quad(from + 16 * (SINGLE ? lane % 4 : lane));
        q[0] = v.x, q[1] = v.y, q[2] = v.z, q[3] = v.w;
    }
    template <bool AFFINE> MEMBER void load_scales(const uchar *from, uint lane) {
        const uint t = lane % 4;
        const float4 scales = *(const float4 *)(from + (SINGLE ? 64 : 512 + 16 * t));
        d[0] = scales.x, d[1] = scales.y, d[2] = scales.z, d[3] = scales.w;
        if (!AFFINE) return;
        const float4 sums = *(const float4 *)(from + (SINGLE ? 80 : 576 + 16 * t));
        sum[0] = sums.x, sum[1] = sums.y, sum[2] = sums.z, sum[3] = sums.w;
    }
};

// Adds `sums` times the scales of weights and rows, and of AFFINE tiles the offsets.
template <bool AFFINE, typename Rows>
FN void add_block(float (&acc)[4], const int (&sums)[4], const float (&d)[2], const float (&m)[2], const Rows &x,
                  uint block) {
    UNROLL
    for (uint i = 0; i < 4; i++) {
        if (i % 2 >= Rows::COLS) continue;
        const uint col = 2 * block + i % 2;
        acc[i] = fmaf(float(sums[i]), d[i / 2] * x.d[col], acc[i]);
        if (AFFINE) acc[i] = fmaf(m[i / 2], x.sum[col], acc[i]);
    }
}

// Four bits an element: P4 and P4A.
template <bool WITH_OFFSET> struct Tile4 : Alone {
    template <bool SINGLE> using Rows = QuantisedRows<SINGLE>;
    enum { BYTES = WITH_OFFSET ? 640 : 576, AFFINE = WITH_OFFSET };
    // What sums are to be multiplied with.
    static MEMBER float unit() { return AFFINE ? 1.0f : 0.0625f; }
    static MEMBER uint groups(const TileShape &) { return 1; }
    uint4 w;
    uint2 scales, offsets;
    MEMBER void load(TileAt at, uint lane) {
        w = load_quad(at.tile + 16 * lane);
        if (AFFINE) {
            const uint4 both = load_quad(at.tile + 512 + 16 * (lane / 4));
            scales = make_uint2(both.x, both.y), offsets = make_uint2(both.z, both.w);
        } else {
            scales = load_pair(at.tile + 512 + 8 * (lane / 4));
        }
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        UNROLL
        for (uint block = 0; block < 2; block++) {
            const uint a = block ? w.z : w.x, b = block ? w.w : w.y, mask = AFFINE ? 0x0f0f0f0f : 0xf0f0f0f0;
            int sums[4];
            // A signed nibble in the upper half of a byte counts 16 times, which `unit` takes back.
            if (AFFINE) mma_int8(sums, a & mask, b & mask, (a >> 4) & mask, (b >> 4) & mask, x.q[2 * block], x.q[2 * block + 1]);
            else mma_int8(sums, (a << 4) & mask, (b << 4) & mask, a & mask, b & mask, x.q[2 * block], x.q[2 * block + 1]);
            const uint pair = block ? scales.y : scales.x, offset = block ? offsets.y : offsets.x;
            const float d[2] = {scale_of(pair, 0), scale_of(pair, 1)};
            const float m[2] = {AFFINE ? scale_of(offset, 0) : 0, AFFINE ? scale_of(offset, 1) : 0};
            add_block<AFFINE>(acc, sums, d, m, x, block);
        }
    }
};

// Four bits an element, scales and offsets that are multiples: P4K. These take more instructions than all else, so that
// who multiplies a single row has each in one lane: sums of the tiles that stand together are apart.
struct TileMultiples : ByFour {
    template <bool SINGLE> using Rows = QuantisedRows<SINGLE>;
    enum { BYTES = 576, AFFINE = 1, APART = 1 };
    static MEMBER float unit() { return 1.0f; }
    static MEMBER uint groups(const TileShape &) { return 1; }
    uint4 w;
    fragments::Multiples of;
    MEMBER void load(TileAt at, uint lane) {
        load_elements(at, lane);
        load_scales(at, lane);
    }
    MEMBER void load_elements(TileAt at, uint lane) { w = load_quad(at.tile + 16 * lane); }
    MEMBER void load_scales(TileAt at, uint lane) { of.load(at, lane); }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        int sums[2][4];
        multiply(sums, x);
        scale(acc, sums, x);
    }
    // Sums of two blocks.
    template <typename R> MEMBER void multiply(int (&sums)[2][4], const R &x) const {
        UNROLL
        for (uint block = 0; block < 2; block++) {
            const uint a = block ? w.z : w.x, b = block ? w.w : w.y, mask = 0x0f0f0f0f;
            mma_int8(sums[block], a & mask, b & mask, (a >> 4) & mask, (b >> 4) & mask, x.q[2 * block], x.q[2 * block + 1]);
        }
    }
    // Adds them times the scales, and the offsets.
    template <typename R> MEMBER void scale(float (&acc)[4], const int (&sums)[2][4], const R &x) const {
        UNROLL
        for (uint block = 0; block < 2; block++) {
            const float d[2] = {of.scale(block, 0), of.scale(block, 1)}, m[2] = {of.offset(block, 0), of.offset(block, 1)};
            add_block<true>(acc, sums[block], d, m, x, block);
        }
    }
};

// Two bits an element, a scale and an offset for each 16 columns.
struct Tile2 : Alone {
    template <bool SINGLE> using Rows = QuantisedRows<SINGLE>;
    // Rows bring sums of 32 columns: those of 16 are products with ones.
    enum { BYTES = 512, AFFINE = 0 };
    static MEMBER float unit() { return 1.0f; }
    static MEMBER uint groups(const TileShape &) { return 1; }
    uint2 w;
    uint4 scales, offsets;
    MEMBER void load(TileAt at, uint lane) {
        w = load_pair(at.tile + 8 * lane);
        scales = load_quad(at.tile + 256 + 32 * (lane / 4)), offsets = load_quad(at.tile + 272 + 32 * (lane / 4));
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        const uint pairs[4] = {scales.x, scales.y, scales.z, scales.w};
        const uint lows[4] = {offsets.x, offsets.y, offsets.z, offsets.w};
        const uint mask = 0x03030303, ones = 0x01010101;
        UNROLL
        for (uint group = 0; group < 4; group++) {
            int sums[4], totals[4];
            mma_int8_half(sums, (w.x >> (2 * group)) & mask, (w.y >> (2 * group)) & mask, x.q[group]);
            mma_int8_half(totals, ones, ones, x.q[group]);
            UNROLL
            for (uint i = 0; i < 4; i++) {
                if (i % 2 >= R::COLS) continue;
                const float d = x.d[group / 2 * 2 + i % 2];
                acc[i] = fmaf(float(sums[i]), scale_of(pairs[group], i / 2) * d, acc[i]);
                acc[i] = fmaf(scale_of(lows[group], i / 2), d * float(totals[i]), acc[i]);
            }
        }
    }
};

// Five bits an element, the uppermost of all behind the others: P5 and P5A.
template <bool WITH_OFFSET> struct Tile5 : Alone {
    template <bool SINGLE> using Rows = QuantisedRows<SINGLE>;
    enum { BYTES = WITH_OFFSET ? 768 : 704, AFFINE = WITH_OFFSET };
    static MEMBER float unit() { return AFFINE ? 1.0f : 0.125f; }
    static MEMBER uint groups(const TileShape &) { return 1; }
    uint4 w;
    uint upper;
    uint2 scales, offsets;
    MEMBER void load(TileAt at, uint lane) {
        w = load_quad(at.tile + 16 * lane), upper = *(const uint *)(at.tile + 512 + 4 * lane);
        if (AFFINE) {
            const uint4 both = load_quad(at.tile + 640 + 16 * (lane / 4));
            scales = make_uint2(both.x, both.y), offsets = make_uint2(both.z, both.w);
        } else {
            scales = load_pair(at.tile + 640 + 8 * (lane / 4));
        }
    }
    // The `i`th word: as the upper five bits of a byte a signed number counts 8 times, which `unit` takes back.
    MEMBER uint word(uint nibbles, uint i) const {
        if (AFFINE) return fragments::five_bits(i % 4 < 2 ? nibbles : nibbles >> 4, upper, i);
        return ((i % 4 < 2 ? nibbles << 3 : nibbles >> 1) & 0x78787878) | ((upper << i) & 0x80808080);
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        UNROLL
        for (uint block = 0; block < 2; block++) {
            const uint a = block ? w.z : w.x, b = block ? w.w : w.y, i = 4 * block;
            int sums[4];
            mma_int8(sums, word(a, i), word(b, i + 1), word(a, i + 2), word(b, i + 3), x.q[2 * block], x.q[2 * block + 1]);
            const uint pair = block ? scales.y : scales.x, offset = block ? offsets.y : offsets.x;
            const float d[2] = {scale_of(pair, 0), scale_of(pair, 1)};
            const float m[2] = {AFFINE ? scale_of(offset, 0) : 0, AFFINE ? scale_of(offset, 1) : 0};
            add_block<AFFINE>(acc, sums, d, m, x, block);
        }
    }
};

// Four or six bits an element, a scale for each 16 columns: P4S and P6S.
template <bool SIX> struct TileShort : Alone {
    template <bool SINGLE> using Rows = QuantisedRows<SINGLE>;
    enum { BYTES = SIX ? 896 : 640, AFFINE = 0 };
    // As the upper bits of a byte a number counts so many times less.
    static MEMBER float unit() { return SIX ? 0.25f : 0.0625f; }
    static MEMBER uint groups(const TileShape &) { return 1; }
    uint4 w, scales;
    uint2 upper;
    MEMBER void load(TileAt at, uint lane) {
        w = load_quad(at.tile + 16 * lane);
        if (SIX) upper = load_pair(at.tile + 512 + 8 * lane);
        scales = load_quad(at.tile + BYTES - 128 + 16 * (lane / 4));
    }
    // The `i`th word of 32 columns.
    static MEMBER uint word(uint nibbles, uint upper, uint i) {
        if (!SIX) return (i < 2 ? nibbles << 4 : nibbles) & 0xf0f0f0f0;
        return ((i < 2 ? nibbles << 2 : nibbles >> 2) & 0x3c3c3c3c) | ((upper << 2 * i) & 0xc0c0c0c0);
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        const uint pairs[4] = {scales.x, scales.y, scales.z, scales.w};
        const float m[2] = {0, 0};
        UNROLL
        for (uint half = 0; half < 4; half++) {
            const uint block = half / 2, i = 2 * (half % 2);
            const uint a = block ? w.z : w.x, b = block ? w.w : w.y, bits = block ? upper.y : upper.x;
            int sums[4];
            mma_int8_half(sums, word(a, bits, i), word(b, bits, i + 1), x.q[half]);
            const float d[2] = {scale_of(pairs[half], 0), scale_of(pairs[half], 1)};
            add_block<false>(acc, sums, d, m, x, block);
        }
    }
};

// Eight bits an element.
struct Tile8 : Alone {
    template <bool SINGLE> using Rows = QuantisedRows<SINGLE>;
    enum { BYTES = 1088, AFFINE = 0 };
    static MEMBER float unit() { return 1.0f; }
    static MEMBER uint groups(const TileShape &) { return 1; }
    uint4 w[2];
    uint2 scales;
    MEMBER void load(TileAt at, uint lane) {
        w[0] = load_quad(at.tile + 16 * lane), w[1] = load_quad(at.tile + 512 + 16 * lane);
        scales = load_pair(at.tile + 1024 + 8 * (lane / 4));
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        const float m[2] = {0, 0};
        UNROLL
        for (uint block = 0; block < 2; block++) {
            int sums[4];
            mma_int8(sums, w[block].x, w[block].y, w[block].z, w[block].w, x.q[2 * block], x.q[2 * block + 1]);
            const uint pair = block ? scales.y : scales.x;
            const float d[2] = {scale_of(pair, 0), scale_of(pair, 1)};
            add_block<false>(acc, sums, d, m, x, block);
        }
    }
};

typedef Tile2 P2A;
typedef Tile4<false> P4;
typedef Tile4<true> P4A;
typedef TileMultiples P4K;
typedef TileShort<false> P4S;
typedef Tile5<false> P5;
typedef Tile5<true> P5A;
typedef TileShort<true> P6S;
typedef Tile8 P8;
typedef SplitTile<fragments::P16, 3> P16;

#endif
