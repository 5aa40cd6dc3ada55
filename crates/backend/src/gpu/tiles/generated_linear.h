// Linear maps of generated rows, bands of 16 outputs each.
//
// Each of eight SIMD-groups takes an eighth of the columns; their sums are added
// in order. So a row's sum is taken in the same order whatever rows stand beside it.
#ifndef QUARREL_GENERATED_LINEAR_H
#define QUARREL_GENERATED_LINEAR_H

#include "activate.h"
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

// Up to three maps of the same rows, as blocks find them: each starts at a block of its own.
struct Outputs {
    const uchar *weight[3];
    const float *bias[3];
    float *out[3];
};

// One of them.
struct Output {
    const uchar *weight;
    const float *bias;
    float *out;
    uint cols, band;
    MEMBER Output(const TileArgs &args, const Outputs &all, uint block, uint bands) {
        if (block >= args.block2) {
            weight = all.weight[2], bias = args.has_bias & 4 ? all.bias[2] : 0, out = all.out[2];
            cols = args.cols2, band = (block - args.block2) * bands;
        } else if (block >= args.block1) {
            weight = all.weight[1], bias = args.has_bias & 2 ? all.bias[1] : 0, out = all.out[1];
            cols = args.cols1, band = (block - args.block1) * bands;
        } else {
            weight = all.weight[0], bias = args.has_bias & 1 ? all.bias[0] : 0, out = all.out[0];
            cols = args.cols0, band = block * bands;
        }
    }

    // `out = cap(scale * (sum + bias))`, a cap of 0 is none; or, to ADD, `out += scale * (sum + bias)`.
    template <bool ADD> MEMBER void write(const TileArgs &args, uint row, uint o, float sum) const {
        if (bias) sum += bias[o];
        float *to = out + ulong(row) * cols + o;
        if (ADD) {
            *to = fmaf(args.scale, sum, *to);
            return;
        }
        const float value = args.scale * sum;
        *to = args.softcap > 0 ? args.softcap * exact_tanh(value / args.softcap) : value;
    }
};

#endif
