// Linear maps of few rows: every SIMD-group makes OUTS outputs of up to ROWS
// rows, its lanes sharing the weight's blocks among them.
//
// A row's sum is taken in the same order whatever OUTS and ROWS are and
// whatever rows stand beside it: parts of blocks by lane, then the lanes. Products are explicit fused
// multiply-adds so that no compiler contracts one instance differently.
#ifndef QUARREL_LINEAR_H
#define QUARREL_LINEAR_H

#include "args.h"
#include "formats.h"

// Adds to `sums` the dot products of this lane's parts.
template <typename Format, uint OUTS, uint ROWS>
FN void add_dots(DEVICE const uchar *weight, DEVICE const float *x, uint cols, ulong row_bytes,
                 THREAD const uint *outs, THREAD const uint *rows, uint lane,
                 THREAD float (*sums)[ROWS]) {
    const uint part = lane % Format::PARTS;
    // Loads of several blocks in flight: one row has too little arithmetic to hide them.
    UNROLL_BY(ROWS == 1 ? 4 : 1)
    for (uint block = lane / Format::PARTS; block < cols / Format::LEN; block += 32 / Format::PARTS) {
        float values[ROWS][Format::PART];
        UNROLL
        for (uint r = 0; r < ROWS; r++) {
            Format::load(x + ulong(rows[r]) * cols + block * Format::LEN, part, values[r]);
        }
        UNROLL
        for (uint o = 0; o < OUTS; o++) {
            float w[Format::PART];
            unpack((DEVICE const typename Format::Block *)(weight + outs[o] * row_bytes) + block, part, w);
            UNROLL
            for (uint r = 0; r < ROWS; r++) {
                UNROLL
                for (uint i = 0; i < Format::PART; i++) sums[o][r] = multiply_add(w[i], values[r][i], sums[o][r]);
            }
        }
    }
}

// `write(row, out, sum)` takes the results. `group` is the threadgroup's place
// in a grid of (outputs, rows); rows beyond the last repeat it, unwritten.
template <typename Format, uint OUTS, uint ROWS, typename Write>
FN void linear(CONSTANT LinearArgs &args, DEVICE const uint *inputs, DEVICE const uchar *weight,
               DEVICE const float *x, uint group_x, uint group_y, Threads t, Write write) {
    const uint n_rows = inputs[args.n_rows_at];
    const uint first_out = (group_x * (t.count / 32) + t.simdgroup) * OUTS;
    const uint first_row = group_y * ROWS;
    if (first_out >= args.out_cols || first_row >= n_rows) return;

    uint outs[OUTS], rows[ROWS];
    for (uint o = 0; o < OUTS; o++) outs[o] = min(first_out + o, args.out_cols - 1);
    for (uint r = 0; r < ROWS; r++) rows[r] = min(first_row + r, n_rows - 1);
    float sums[OUTS][ROWS];
    for (uint o = 0; o < OUTS; o++) {
        for (uint r = 0; r < ROWS; r++) sums[o][r] = 0;
    }
    const ulong row_bytes = ulong(args.cols / Format::LEN) * sizeof(typename Format::Block);
    add_dots<Format, OUTS, ROWS>(weight, x, args.cols, row_bytes, outs, rows, t.lane, sums);
    UNROLL
    for (uint o = 0; o < OUTS; o++) {
        UNROLL
        for (uint r = 0; r < ROWS; r++) {
            const float sum = simd_sum(sums[o][r]);
            const bool wanted = first_out + o < args.out_cols && first_row + r < n_rows;
            if (t.lane == 0 && wanted) write(rows[r], outs[o], sum);
        }
    }
}

#endif
