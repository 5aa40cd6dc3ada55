// Rows that a gated activation makes of two others, as the threadgroup's SIMD-groups share them.
#ifndef QUARREL_GATED_ROWS_H
#define QUARREL_GATED_ROWS_H

#include "activate.h"
#include "simd_maps.h"

template <uint ROWS> struct GatedX {
    device const float *gate;
    device const float *up;
    // `act(gate) * up` of a chunk's columns, row by row.
    float threadgroup *values;
    uint rows[ROWS];
    uint cols;
    uint gelu_tanh;
    Threads t;

    float one(uint r, uint col) {
        const ulong at = ulong(rows[r]) * cols + col;
        return activate(gate[at], gelu_tanh) * up[at];
    }
    void stage(uint chunk) {
        // What is there has been read.
        group_barrier();
        for (uint i = t.index; i < CHUNK; i += t.count) {
            const uint col = chunk * CHUNK + i;
            if (col >= cols) break;
            for (uint r = 0; r < ROWS; r++) values[r * CHUNK + i] = one(r, col);
        }
        group_barrier();
    }
    void load(uint r, uint col, thread float *to) {
        const threadgroup float *from = values + r * CHUNK + col % CHUNK;
        UNROLL
        for (uint i = 0; i < 8; i++) to[i] = from[i];
    }
    float factor(uint, uint, float) { return 1; }
};

#endif
