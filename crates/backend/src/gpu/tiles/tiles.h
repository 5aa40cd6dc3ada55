// Tiles of 16 rows by 64 columns, as `packing.rs` writes them, times generated
// rows. Every packing says how its tile adds to the sums of 16 outputs of
// eight rows: integers exactly for each block, the blocks in order as floats.
#ifndef QUARREL_TILES_H
#define QUARREL_TILES_H

#include "activations.h"
#include "ring.h"

// What a lane holds of 64 columns of up to eight quantised rows. In shared memory a single
// row's are close together.
template <uint MOST> struct QuantisedRows {
    enum {
        BYTES = QUANTISED_BYTES,
        ROW_TILES = (MOST + 7) / 8,
        COPIED_BYTES = MOST == 1 ? 96 : QUANTISED_BYTES,
        SHARED_BYTES = ROW_TILES * COPIED_BYTES,
        // Columns of a lane that can be there: a single row has one, of one lane in four.
        COLS = MOST == 1 ? 1 : 2
    };
    uint q[4];
    float d[4], sum[4];

    // Copies `tiles` tiles, CHUNK of which have room, of each eight rows.
    template <uint CHUNK>
    static MEMBER void copy(uchar *to, const uchar *from, uint tiles, uint stride, uint n, uint barrier) {
        const uint lane = threadIdx.x % 32;
        if (MOST > 1) {
            if (lane < n) copy_to_shared(to + lane * CHUNK * BYTES, from + lane * stride, tiles * BYTES, barrier);
        } else if (lane < 3 * tiles) {
            const uint tile = lane / 3, part = lane % 3;
            const uint at = part == 0 ? 0 : 448 + 64 * part, into = part == 0 ? 0 : 48 + 16 * part;
            copy_to_shared(to + tile * COPIED_BYTES + into, from + tile * BYTES + at, part == 0 ? 64 : 16, barrier);
        }
    }

    // Rows from `n_rows` on are not there and read as zero.
    template <bool AFFINE> MEMBER void load(const uchar *from, uint n_rows, uint lane) {
        const uint g = lane / 4, t = lane % 4, scales_at = MOST == 1 ? 64 : 512, sums_at = MOST == 1 ? 80 : 576;
        uint4 v = {0, 0, 0, 0};
        float4 scales = {0, 0, 0, 0}, sums = {0, 0, 0, 0};
        if (g < n_rows) v = load_quad(from + 16 * lane);
        if (2 * t < n_rows) {
            scales = *(const float4 *)(from + scales_at + 16 * t);
            if (AFFINE) sums = *(const float4 *)(from + sums_at + 16 * t);
        }
        // A place whose row is not there holds what was left of another step.
        if (MOST > 1 && 2 * t + 1 >= n_rows) scales.y = scales.w = sums.y = sums.w = 0;
        q[0] = v.x, q[1] = v.y, q[2] = v.z, q[3] = v.w;
        d[0] = scales.x, d[1] = scales.y, d[2] = scales.z, d[3] = scales.w;
        sum[0] = sums.x, sum[1] = sums.y, sum[2] = sums.z, sum[3] = sums.w;
    }
};

// What a lane holds of the same in three parts of bfloat16.
template <uint MOST> struct SplitRows {
    enum {
        BYTES = SPLIT_PARTS * SPLIT_BYTES,
        ROW_TILES = (MOST + 7) / 8,
        COPIED_BYTES = MOST == 1 ? BYTES / 8 : BYTES,
        SHARED_BYTES = ROW_TILES * COPIED_BYTES,
        // Of each 16 columns of each part.
        RUNS = 4 * SPLIT_PARTS,
        RUN_BYTES = COPIED_BYTES / RUNS
    };
    uint2 parts[SPLIT_PARTS][4];

    template <uint CHUNK>
    static MEMBER void copy(uchar *to, const uchar *from, uint tiles, uint stride, uint n, uint barrier) {
        const uint lane = threadIdx.x % 32;
        if (MOST > 1) {
            if (lane < n) copy_to_shared(to + lane * CHUNK * BYTES, from + lane * stride, tiles * BYTES, barrier);
        } else {
            // The row's four lanes stand first in every run.
            for (uint i = lane; i < RUNS * tiles; i += 32) {
                copy_to_shared(to + i * RUN_BYTES, from + i * (BYTES / RUNS), RUN_BYTES, barrier);
            }
        }
    }

    template <bool AFFINE> MEMBER void load(const uchar *from, uint n_rows, uint lane) {
        UNROLL
        for (uint part = 0; part < SPLIT_PARTS; part++) {
            UNROLL
            for (uint k = 0; k < 4; k++) {
                parts[part][k] = make_uint2(0, 0);
                if (lane / 4 < n_rows) parts[part][k] = load_pair(from + (4 * part + k) * RUN_BYTES + 8 * lane);
            }
        }
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
template <bool WITH_OFFSET> struct Tile4 {
    template <uint MOST> using Rows = QuantisedRows<MOST>;
    enum { BYTES = WITH_OFFSET ? 640 : 576, AFFINE = WITH_OFFSET };
    uint4 w;
    uint2 scales, offsets;
    MEMBER void load(const uchar *tile, uint lane) {
        w = load_quad(tile + 16 * lane);
        if (AFFINE) {
            const uint4 both = load_quad(tile + 512 + 16 * (lane / 4));
            scales = make_uint2(both.x, both.y), offsets = make_uint2(both.z, both.w);
        } else {
            scales = load_pair(tile + 512 + 8 * (lane / 4));
        }
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        UNROLL
        for (uint block = 0; block < 2; block++) {
            const uint a = block ? w.z : w.x, b = block ? w.w : w.y, mask = AFFINE ? 0x0f0f0f0f : 0xf0f0f0f0;
            int sums[4];
            // A signed nibble in the upper half of a byte counts 16 times, which the scale takes back.
            if (AFFINE) mma_int8(sums, a & mask, b & mask, (a >> 4) & mask, (b >> 4) & mask, x.q[2 * block], x.q[2 * block + 1]);
            else mma_int8(sums, (a << 4) & mask, (b << 4) & mask, a & mask, b & mask, x.q[2 * block], x.q[2 * block + 1]);
            const uint pair = block ? scales.y : scales.x, offset = block ? offsets.y : offsets.x;
            const float unit = AFFINE ? 1.0f : 0.0625f;
            const float d[2] = {unit * scale_of(pair, 0), unit * scale_of(pair, 1)};
            const float m[2] = {AFFINE ? scale_of(offset, 0) : 0, AFFINE ? scale_of(offset, 1) : 0};
            add_block<AFFINE>(acc, sums, d, m, x, block);
        }
    }
};

// Eight bits an element: P8 and P8A.
template <bool WITH_OFFSET> struct Tile8 {
    template <uint MOST> using Rows = QuantisedRows<MOST>;
    enum { BYTES = WITH_OFFSET ? 1152 : 1088, AFFINE = WITH_OFFSET };
    uint4 w[2];
    uint2 scales, offsets;
    MEMBER void load(const uchar *tile, uint lane) {
        w[0] = load_quad(tile + 16 * lane), w[1] = load_quad(tile + 512 + 16 * lane);
        if (AFFINE) {
            const uint4 both = load_quad(tile + 1024 + 16 * (lane / 4));
            scales = make_uint2(both.x, both.y), offsets = make_uint2(both.z, both.w);
        } else {
            scales = load_pair(tile + 1024 + 8 * (lane / 4));
        }
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        UNROLL
        for (uint block = 0; block < 2; block++) {
            int sums[4];
            mma_int8(sums, w[block].x, w[block].y, w[block].z, w[block].w, x.q[2 * block], x.q[2 * block + 1]);
            const uint pair = block ? scales.y : scales.x, offset = block ? offsets.y : offsets.x;
            const float d[2] = {scale_of(pair, 0), scale_of(pair, 1)};
            const float m[2] = {AFFINE ? scale_of(offset, 0) : 0, AFFINE ? scale_of(offset, 1) : 0};
            add_block<AFFINE>(acc, sums, d, m, x, block);
        }
    }
};

// Eight bits an element, a scale for each 16 columns.
struct Tile8Short {
    template <uint MOST> using Rows = QuantisedRows<MOST>;
    enum { BYTES = 1152, AFFINE = 0 };
    uint4 w[2], scales;
    MEMBER void load(const uchar *tile, uint lane) {
        w[0] = load_quad(tile + 16 * lane), w[1] = load_quad(tile + 512 + 16 * lane);
        scales = load_quad(tile + 1024 + 16 * (lane / 4));
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        const uint pairs[4] = {scales.x, scales.y, scales.z, scales.w};
        const float m[2] = {0, 0};
        UNROLL
        for (uint half = 0; half < 4; half++) {
            const uint block = half / 2;
            int sums[4];
            if (half % 2 == 0) mma_int8_half(sums, w[block].x, w[block].y, x.q[half]);
            else mma_int8_half(sums, w[block].z, w[block].w, x.q[half]);
            const float d[2] = {scale_of(pairs[half], 0), scale_of(pairs[half], 1)};
            add_block<false>(acc, sums, d, m, x, block);
        }
    }
};

// bfloat16.
struct Tile16 {
    template <uint MOST> using Rows = SplitRows<MOST>;
    enum { BYTES = 2048, AFFINE = 0 };
    uint4 w[4];
    MEMBER void load(const uchar *tile, uint lane) {
        UNROLL
        for (uint k = 0; k < 4; k++) w[k] = load_quad(tile + 512 * k + 16 * lane);
    }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        UNROLL
        for (uint k = 0; k < 4; k++) {
            // The smallest parts first, for the sake of the sum.
            UNROLL
            for (int part = SPLIT_PARTS - 1; part >= 0; part--) mma_bf16(acc, w[k], x.parts[part][k].x, x.parts[part][k].y);
        }
    }
};

typedef Tile4<false> P4;
typedef Tile4<true> P4A;
typedef Tile8<false> P8;
typedef Tile8<true> P8A;
typedef Tile8Short P8S;
typedef Tile16 P16;

#endif
