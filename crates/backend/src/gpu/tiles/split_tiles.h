// Tiles of weights as bfloat16, times generated rows in one or three parts of bfloat16.
#ifndef QUARREL_SPLIT_TILES_H
#define QUARREL_SPLIT_TILES_H

#include "activations.h"
#include "fragments.h"

// What a lane holds of 64 columns of eight rows, or of a single one, which then stands
// in all eight places.
template <bool SINGLE, uint N> struct SplitRows {
    enum {
        BYTES = N * SPLIT_BYTES,
        SHARED_BYTES = SINGLE ? BYTES / 8 : BYTES,
        // Of 16 columns of a part.
        RUN_BYTES = SHARED_BYTES / (4 * N)
    };
    uint2 parts[N][4];

    static MEMBER void put(uchar *tile, uint col, float4 v, float scale = 1) {
        const Parts<N> all(scaled(v, scale));
        UNROLL
        for (uint part = 0; part < N; part++) {
            *(uint2 *)(tile + (4 * part + col / 16 % 4) * RUN_BYTES + 8 * (col % 16 / 4)) = all.pairs[part];
        }
    }

    // Where column `col` of row `g` stands in the first part.
    static MEMBER uint at(uint g, uint col) {
        return col / 16 * RUN_BYTES + 8 * ((SINGLE ? 0 : 4 * g) + col % 16 / 4) + 4 * (col % 2) + 2 * (col / 2 % 2);
    }

    template <bool AFFINE> MEMBER void load(const uchar *from, uint lane) {
        UNROLL
        for (uint part = 0; part < N; part++) {
            UNROLL
            for (uint k = 0; k < 4; k++) {
                parts[part][k] = load_pair(from + (4 * part + k) * RUN_BYTES + 8 * (SINGLE ? lane % 4 : lane));
            }
        }
    }
};

// A tile of any packing, rounded once from f32 to bfloat16.
template <typename Packing, uint N> struct SplitTile {
    template <bool SINGLE> using Rows = SplitRows<SINGLE, N>;
    enum { BYTES = Packing::BYTES, TOGETHER = Packing::TOGETHER, SHARED = Packing::SHARED, AFFINE = 0, APART = 0 };
    static MEMBER float unit() { return 1.0f; }
    // Blocks of rounded.h share the sums of one part.
    static MEMBER uint groups(const TileShape &shape) { return N == 1 ? shape.groups : 1; }
    TileFragment f;
    MEMBER void load(TileAt at, uint lane) { Packing::unpack(at, lane, f); }
    template <typename R> MEMBER void add(float (&acc)[4], const R &x) const {
        UNROLL
        for (uint k = 0; k < 4; k++) {
            // The smallest parts first, for the sake of the sum.
            UNROLL
            for (int part = N - 1; part >= 0; part--) {
                mma_bf16(acc, make_uint4(f.a[k][0], f.a[k][1], f.a[k][2], f.a[k][3]), x.parts[part][k].x, x.parts[part][k].y);
            }
        }
    }
};

template <typename Packing> using RoundedTile = SplitTile<Packing, 1>;

#endif
