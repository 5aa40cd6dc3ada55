// Rows on their way to a block's shared memory.
#ifndef QUARREL_ROW_H
#define QUARREL_ROW_H

#include "activations.h"
#include "copies.h"

// Elements of four that a thread has of a row, where the host knows that the block's threads have all of it: what is
// not there is not even code then.
#ifdef ROW_QUADS
#define ROW_FITS true
#else
#define ROW_QUADS LOADS
#define ROW_FITS false
#endif

// What RMSNorm multiplies a row of up to four times QUADS times the block's threads with, kept in registers
// since before the row is known, and then the row: it is read once. Longer ones are read twice.
template <uint QUADS> struct RowNorm {
    float4 weights[QUADS];

    static MEMBER bool fits(uint cols) { return ROW_FITS || cols <= 4 * QUADS * n_threads(); }
    // The `n`th element of four that this thread has.
    static MEMBER uint at(uint n) { return 4 * (threadIdx.x + n * n_threads()); }

    MEMBER void load(const float *norm, uint cols) {
        if (!norm || !fits(cols)) return;
        UNROLL
        for (uint n = 0; n < QUADS; n++) weights[n] = load_or_zero(norm, at(n), cols);
    }

    // Calls `put(i, four elements, scale)` for the row as `for_elements` does.
    template <typename Put>
    MEMBER void apply(const float *x, const float *norm, uint cols, uint padded, float eps, float *partial,
                      const Put &put) const {
        if (!fits(cols)) {
            const float scale = norm ? norm_scale(x, cols, eps, partial) : 1;
            return for_elements(x, norm, scale, cols, padded, threadIdx.x, n_threads(), put);
        }
        float4 v[QUADS];
        UNROLL
        for (uint n = 0; n < QUADS; n++) v[n] = load_or_zero(x, at(n), cols);
        apply(v, norm, cols, padded, eps, partial, put);
    }

    // The same for a row that this thread has its elements of.
    template <typename Put>
    MEMBER void apply(float4 (&v)[QUADS], const float *norm, uint cols, uint padded, float eps, float *partial,
                      const Put &put) const {
        const float scale = norm ? scale_of_row(v, cols, eps, partial) : 1;
        UNROLL
        for (uint n = 0; n < QUADS; n++) {
            if (at(n) >= padded) break;
            if (norm) v[n] = weighted(v[n], weights[n]);
            put(at(n), v[n], scale);
        }
    }

    // As `norm_scale`: the same sums in the same order.
    static MEMBER float scale_of_row(const float4 (&v)[QUADS], uint cols, float eps, float *partial) {
        const uint lanes = norm_lanes(cols);
        // A row of more than 1024 times four elements comes to the same lanes again after so many.
        const uint again = cols > 4096 ? 1024 / n_threads() : QUADS;
        float squares[QUADS];
        UNROLL
        for (uint n = 0; n < QUADS; n++) squares[n] = sum_of_neighbours(sum_of_squares(v[n]));
        UNROLL
        for (uint n = 0; n < QUADS; n++) {
            UNROLL
            for (uint later = n + 1; later < QUADS; later++) {
                if ((later - n) % again == 0) squares[n] += squares[later];
            }
            const uint lane = threadIdx.x + n * n_threads();
            if (lane < lanes && lane % 32 == 0) partial[lane / 32] = squares[n];
        }
        block_barrier();
        return scale_of_sums(partial, lanes, cols, eps);
    }
};

// Converts a row, or a part of one as it is, or a whole one normalised by `norm`.
// Results count from the first row.
template <typename Convert>
FN void convert_row(const TileShape &args, const uint *inputs, const float *x, const float *norm, float *partial,
                    const Convert &convert) {
    const uint row = inputs[args.first_at] + blockIdx.y;
    const bool exists = row < inputs[args.end_at];
    RowNorm<ROW_QUADS> weights;
    weights.load(norm, args.cols);
    allow_next();
    wait_for_inputs();
    if (!exists) return;
    x += ulong(args.gather_at ? inputs[args.gather_at + row] : row) * args.cols;
    const auto put = [&](uint i, float4 v, float scale) { convert(blockIdx.y, i, v, scale); };
    if (norm) return weights.apply(x, norm, args.cols, 64 * args.n_tiles, args.eps, partial, put);
    // Several blocks share a row.
    for_elements(x, norm, 1, args.cols, 64 * args.n_tiles, blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x, put);
}

#if __CUDA_ARCH__ >= 900
FN ulong *copy_barrier() {
    __shared__ ulong barrier;
    return &barrier;
}
#endif

// Before `copy_to_block`, which comes once: by all threads of a block, and before they wait for other kernels.
FN void begin_copy() {
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
        barrier_init(shared_address(copy_barrier()), 1);
        publish_barriers();
    }
    group_barrier();
#endif
}

// Copies `bytes`, a multiple of 16 as both addresses are, and waits for them.
FN void copy_to_block(uchar *to, const uchar *from, uint bytes) {
#if __CUDA_ARCH__ >= 900
    const uint barrier = shared_address(copy_barrier());
    if (threadIdx.x == 0) {
        // What other kernels wrote, the copy engine shall see.
        asm volatile("fence.proxy.async.global;" ::: "memory");
        barrier_expect(barrier, bytes);
        copy_bulk(shared_address(to), from, bytes, barrier);
    }
    barrier_wait(barrier, 0);
#else
    UNROLL_BY(4)
    for (uint i = 16 * threadIdx.x; i < bytes; i += 16 * blockDim.x) *(uint4 *)(to + i) = load_quad(from + i);
    group_barrier();
#endif
}

#endif
