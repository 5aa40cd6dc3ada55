// Linear maps of generated rows, bands of 16 outputs each.
//
// Each of eight SIMD-groups takes an eighth of the columns; their sums are added
// in order. So a row's sum is taken in the same order whatever rows stand beside it.
#ifndef QUARREL_GENERATED_LINEAR_H
#define QUARREL_GENERATED_LINEAR_H

#include "activate.h"
#include "maps.h"
#include "ring.h"
#include "tiles.h"

#define PARTS 8
#define SLOTS 2
// Distance between rows of sums in shared memory, without bank conflicts.
#define SUMS_STRIDE 20

extern __shared__ __align__(128) uchar shared_memory[];

// What a block does: rows from `first` on, and how many of them there are.
struct BlockRows {
    uint first, n;
    MEMBER BlockRows(const uint *inputs, const TileShape &shape, uint most) {
        const uint start = inputs[shape.first_at], n_rows = inputs[shape.end_at] - start, row = blockIdx.y * most;
        first = start + row;
        n = row >= n_rows ? 0 : min(most, n_rows - row);
    }
};

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

// The sum of all parts, for output `o` of the bands and row `r` of eight.
template <uint BANDS> FN float sum_of(const float *sums, uint o, uint r) {
    float sum = 0;
    UNROLL
    for (uint part = 0; part < PARTS; part++) {
        sum += sums[(8 * (BANDS * part + o / 16) + r) * SUMS_STRIDE + o % 16];
    }
    return sum;
}

#endif
