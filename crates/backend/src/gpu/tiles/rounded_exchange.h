// How blocks of the kernels of rounded.h that share columns add up their sums.
#ifndef QUARREL_ROUNDED_EXCHANGE_H
#define QUARREL_ROUNDED_EXCHANGE_H

#include "rounded_ring.h"

#if MATRIX_UNIT == 90

// Counts this block, and waits for all `n` that share its columns, or its rows: what they wrote before is seen after. All threads
// do `meanwhile` what needs nobody else. The blocks of a launch are few enough to run side by side, or they wait for neighbours and
// begin in order; and steps of others do not run beside it: nobody waits for one that cannot begin. The count goes on from launch to
// launch, and begins again at a multiple of `n`.
template <typename Meanwhile> FN void wait_for_blocks(uint *arrived, uint n, const Meanwhile &meanwhile) {
    __syncthreads();
    uint before;
    if (threadIdx.x == 0) {
        const uint last = 0xffffffffu / n * n - 1;
        asm volatile("atom.inc.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(arrived), "r"(last) : "memory");
    }
    meanwhile();
    if (threadIdx.x == 0) {
        uint now;
        const uint first = before / n * n;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory");
        while (now - first < n);
    }
    __syncthreads();
}
// What another block wrote; many are under way at once.
FN float load_of_block(const float *from) {
    float value;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(value) : "l"(from));
    return value;
}
template <uint N> FN void load_of_block(float (&values)[N], const float *from) {
    static_assert(N == 1 || N == 2 || N == 4, "one load");
    if constexpr (N == 4) {
        asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
                     : "l"(from));
    } else if constexpr (N == 2) {
        asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(values[0]), "=f"(values[1]) : "l"(from));
    } else {
        values[0] = load_of_block(from);
    }
}

// One of the sums of the block: of which output and row.
struct Place {
    uint output, row;
    // That of a thread's `nth` sum.
    static MEMBER Place of(uint nth, uint thread) {
        return {thread / 32 * 16 + thread % 32 / 4 + nth / 2 % 2 * 8, nth / 4 * 8 + thread % 4 * 2 + nth % 2};
    }
};

// Sums of a thread that lie side by side where a block shows them: as many as the same other block reads, and one load.
template <typename R> struct Chunk {
    static constexpr uint OWN = R::SUMS / PART_GROUPS, N = OWN >= 4 ? 4 : OWN > 0 ? OWN : 1;
    uint first, thread;
    MEMBER uint at() const { return (first / N * R::THREADS + thread) * N; }
    MEMBER Place place(uint i) const { return Place::of(first + i, thread); }
    // Where one of its sums is that is a thread's `nth`.
    static MEMBER uint at(uint nth, uint thread) { return Chunk{nth, thread}.at() + nth % N; }
    // What all blocks that share columns have, whose sums lie from `total` on.
    MEMBER void add(float (&sums)[N], const float *total) const {
        float all[PART_GROUPS][N];
        UNROLL
        for (uint rank = 0; rank < PART_GROUPS; rank++) load_of_block(all[rank], total + rank * (R::SUMS * R::THREADS) + at());
        UNROLL
        for (uint i = 0; i < N; i++) {
            sums[i] = 0;
            UNROLL
            for (uint rank = 0; rank < PART_GROUPS; rank++) sums[i] += all[rank][i];
        }
    }
};

// What `for_share` is given where sums of all blocks are in memory.
template <typename R> struct OfBlocks {
    const float *total;
    MEMBER void operator()(float (&sums)[Chunk<R>::N], const Chunk<R> &chunk) const { chunk.add(sums, total); }
};

// Shows a block's sums to all that share its columns, in `partial`; where those of all are then.
template <typename R, typename Meanwhile>
FN const float *show_sums(float *partial, uint *arrived, const float (&sums)[R::SUMS], const Meanwhile &meanwhile) {
    constexpr uint size = R::SUMS * R::THREADS, n = Chunk<R>::N;
    const uint block = blockIdx.y * gridDim.x + blockIdx.x, first = block - block % PART_GROUPS;
    UNROLL
    for (uint i = 0; i < R::SUMS; i += n) {
        float *to = partial + ulong(block) * size + Chunk<R>{i, threadIdx.x}.at();
        if (n == 4) *(float4 *)to = make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
        else if (n == 2) *(float2 *)to = make_float2(sums[i], sums[i + 1]);
        else *to = sums[i];
    }
    wait_for_blocks(arrived + block / PART_GROUPS, PART_GROUPS, meanwhile);
    return partial + ulong(first) * size;
}

// This block's share of the sums of the first N_BANDS bands of all rows.
template <typename R, uint N_BANDS> struct Share {
    static constexpr uint THREADS = 32 * N_BANDS, N = R::SUMS * THREADS / PART_GROUPS / Chunk<R>::N;
    static MEMBER Chunk<R> at(uint i) {
        const uint nth = blockIdx.x % PART_GROUPS * N + i;
        return {nth / THREADS * Chunk<R>::N, nth % THREADS};
    }
};

// Calls `write(place, sum, read(place))` for this block's share, where `add(sums, chunk)` gives the sums of a chunk; four
// sums are read before the first is written.
template <typename R, uint N_BANDS, typename Add, typename Read, typename Write>
FN void for_share(uint n_rows, const Add &add, const Read &read, const Write &write) {
    typedef Share<R, N_BANDS> Own;
    constexpr uint side_by_side = Chunk<R>::N, batch = 4 / side_by_side;
    for (uint first = threadIdx.x; first < Own::N; first += batch * R::THREADS) {
        float sums[batch][side_by_side], values[batch][side_by_side];
        UNROLL
        for (uint i = 0; i < batch; i++) {
            const Chunk<R> chunk = Own::at(first + i * R::THREADS);
            if (first + i * R::THREADS >= Own::N || chunk.place(0).row >= n_rows) continue;
            add(sums[i], chunk);
            UNROLL
            for (uint k = 0; k < side_by_side; k++) {
                const Place place = chunk.place(k);
                values[i][k] = place.row < n_rows ? read(place) : 0;
            }
        }
        UNROLL
        for (uint i = 0; i < batch; i++) {
            const Chunk<R> chunk = Own::at(first + i * R::THREADS);
            if (first + i * R::THREADS >= Own::N) continue;
            UNROLL
            for (uint k = 0; k < side_by_side; k++) {
                const Place place = chunk.place(k);
                if (place.row < n_rows) write(place, sums[i][k], values[i][k]);
            }
        }
    }
}

#endif

#endif
