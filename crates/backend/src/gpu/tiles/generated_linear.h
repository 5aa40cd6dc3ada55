// Linear maps of generated rows, bands of 16 outputs each.
//
// Each of eight SIMD-groups takes an eighth of the columns; their sums are added
// in order. So a row's sum is taken in the same order whatever rows stand beside it.
#ifndef QUARREL_GENERATED_LINEAR_H
#define QUARREL_GENERATED_LINEAR_H

#include "activate.h"
#include "maps.h"
#include "parts.h"
#include "ring.h"
#include "tiles.h"

// What stands for a packing: with activations in bfloat16, if that is asked for.
#ifdef BF16_ACTIVATIONS
#define TILE_OF(PACKING) RoundedTile<fragments::PACKING>
#else
#define TILE_OF(PACKING) PACKING
#endif

// For `OF_ROWS`.
#define FEW_ROWS(KERNELS, OP, TILE, NAME) KERNELS(OP, TILE, NAME, 1) KERNELS(OP, TILE, NAME, 8)
#define GENERATED_ROWS(KERNELS, OP, TILE, NAME)                                                         \
    FEW_ROWS(KERNELS, OP, TILE, NAME) KERNELS(OP, TILE, NAME, 16) KERNELS(OP, TILE, NAME, 32) KERNELS(OP, TILE, NAME, 64)

#define SLOTS 2
// Distance between rows of sums in shared memory, without bank conflicts.
#define SUMS_STRIDE 20

// The columns, in tiles, that a SIMD-group takes, where `together` tiles are not told apart.
struct Columns {
    uint first, n;
    MEMBER Columns(uint n_tiles, uint together, uint simdgroup = threadIdx.x / 32) {
        const uint part = simdgroup % PARTS;
        first = part_begin(n_tiles, together, part), n = part_begin(n_tiles, together, part + 1) - first;
    }
};

// Tiles that kernels of few rows take together, some two KiB, and of how many of them sums are apart.
template <typename T> struct Piece {
    enum { TILES = 2304 / T::BYTES > 1 ? 2304 / T::BYTES : 1, APART = T::APART ? TILES : 1 };
    static_assert(TILES % T::TOGETHER == 0, "neighbours are copied together");
};

// Teams of a block, of eight SIMD-groups each, which between them take all columns.
#define TEAM_THREADS (32 * PARTS)
FN uint team() { return threadIdx.x / TEAM_THREADS; }

// Waits for this thread's team.
FN void team_barrier() {
    if (team() == 0) asm volatile("bar.sync 1, %0;" ::"n"(TEAM_THREADS) : "memory");
    else asm volatile("bar.sync 2, %0;" ::"n"(TEAM_THREADS) : "memory");
}

// Leaves the lane's sums of a band and eight rows where the block adds them up.
FN void leave_band(float *sums, const float (&acc)[4]) {
    const uint g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    UNROLL
    for (uint i = 0; i < 4; i++) sums[(2 * t + i % 2) * SUMS_STRIDE + g + i / 2 * 8] = acc[i];
}
template <uint BANDS> FN void leave_sums(float *sums, const float (&acc)[BANDS][4]) {
    UNROLL
    for (uint band = 0; band < BANDS; band++) leave_band(sums + 8 * band * SUMS_STRIDE, acc[band]);
}

// The sum of all parts, `stride` floats apart, those of each group first.
FN float sum_of_parts(const float *sums, uint stride, uint groups) {
    float sum = 0, group = 0;
    UNROLL
    for (uint part = 0; part < PARTS; part++) {
        group += sums[part * stride];
        if ((part + 1) % (PARTS / groups) == 0) sum += group, group = 0;
    }
    return sum;
}

// That of output `o` of the bands and row `r` of eight.
template <uint BANDS> FN float sum_of(const float *sums, uint o, uint r, uint groups) {
    return sum_of_parts(sums + (8 * (o / 16) + r) * SUMS_STRIDE + o % 16, 8 * BANDS * SUMS_STRIDE, groups);
}

#endif
