// How kernels for generated rows cut columns, and what rows a block does.
#ifndef QUARREL_PARTS_H
#define QUARREL_PARTS_H

#include "args.h"
#include "cuda.h"

// Parts of the columns whose sums begin at zero, for any kernel.
#define PARTS 8

// The first tile of part `part`, where `together` tiles are not told apart.
FN uint part_begin(uint n_tiles, uint together, uint part) { return n_tiles / together * part / PARTS * together; }

extern __shared__ __align__(128) uchar shared_memory[];

// What a block does: rows from `first` on, and how many of them there are.
struct BlockRows {
    uint first, n;
    MEMBER BlockRows(uint first, uint n) : first(first), n(n) {}
    MEMBER BlockRows(const uint *inputs, const TileShape &shape, uint most) {
        const uint start = inputs[shape.first_at], n_rows = inputs[shape.end_at] - start, row = blockIdx.y * most;
        first = start + row;
        n = row >= n_rows ? 0 : min(most, n_rows - row);
    }
};

#endif
