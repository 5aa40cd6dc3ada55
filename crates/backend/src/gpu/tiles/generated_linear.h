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

#define SLOTS 2
// Distance between rows of sums in shared memory, without bank conflicts.
#define SUMS_STRIDE 20

// The columns, in tiles, that this SIMD-group takes.
struct Part {
    uint first, n;
    MEMBER Part(uint n_tiles) {
        const uint part = threadIdx.x / 32 % PARTS;
        first = n_tiles * part / PARTS, n = n_tiles * (part + 1) / PARTS - first;
    }
};

// Leaves the lane's sums of eight rows where the block adds them up, in BANDS times eight rows of sums.
template <uint BANDS> FN void leave_sums(float *sums, const float (&acc)[BANDS][4]) {
    const uint g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    UNROLL
    for (uint band = 0; band < BANDS; band++) {
        UNROLL
        for (uint i = 0; i < 4; i++) sums[(8 * band + 2 * t + i % 2) * SUMS_STRIDE + g + i / 2 * 8] = acc[band][i];
    }
}

// The sum of all parts, those of each group first, for output `o` of the bands and row `r` of eight.
template <uint BANDS> FN float sum_of(const float *sums, uint o, uint r, uint groups) {
    float sum = 0, group = 0;
    UNROLL
    for (uint part = 0; part < PARTS; part++) {
        group += sums[(8 * (BANDS * part + o / 16) + r) * SUMS_STRIDE + o % 16];
        if ((part + 1) % (PARTS / groups) == 0) sum += group, group = 0;
    }
    return sum;
}

#endif
