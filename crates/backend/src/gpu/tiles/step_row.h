// What a block of step.h keeps beside its weights, and the row that layers add to, on its way from who has results of the maps
// output and down to who multiplies the next weights with it.
//
// Where that is done in integers, who adds to 32 columns also multiplies them with the next norm's weights, rounds them and
// sends the sum of their squares: readers have scales left to multiply with that of the norm, and a third of the letters to
// wait for. The arithmetic is that of row.h.
#ifndef QUARREL_STEP_ROW_H
#define QUARREL_STEP_ROW_H

#include "step_weights.h"

#if __CUDA_ARCH__ >= 900

// Some of a block's threads wait for the others of THREADS at a barrier, or let them go on.
template <bool WAIT, uint THREADS> FN void meet(uint barrier) {
    if (WAIT) asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(THREADS) : "memory");
    else asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "n"(THREADS) : "memory");
}

// Where the runs of a split begin in the cache.
struct SplitRuns {
    uint vectors[SPLIT / RUN];
};

// Sums of bands, two sets in turn, that the computing SIMD-groups leave for the one that writes; then what a block
// keeps beside them: turns, runs of its splits, and a row, over which what comes of scores lies, and over the ends of longer ones keys and values.
struct Handover {
    float *sums;
    uint n;

    MEMBER Handover(uint n = 0) : sums((float *)(shared_memory + STEP_SIMDGROUPS * StepRing::BYTES)), n(n) {}
    MEMBER float *set() const { return sums + n % 2 * STEP_SIMDGROUPS * OutputMap::SUMS; }
    static MEMBER Turn *turns() { return (Turn *)(Handover().sums + 2 * STEP_SIMDGROUPS * OutputMap::SUMS); }
    static MEMBER SplitRuns *runs() { return (SplitRuns *)(turns() + MAX_PAIRS); }
    static MEMBER uchar *rows() { return (uchar *)(runs() + STEP_BLOCK_SPLITS); }

    template <bool WAIT> static MEMBER void meet(uint barrier) { ::meet<WAIT, COMPUTING_THREADS + 32>(barrier); }
    // By those who compute: before they leave sums, and after.
    MEMBER void wait_for_room() const {
        if (n >= 2) meet<true>(8 + n % 2);
    }
    MEMBER void left() { meet<false>(6 + n++ % 2); }
    // By those who write: before they read sums, and after.
    // Its halves may have gone different ways.
    MEMBER void wait_for_sums() const {
        __syncwarp();
        meet<true>(6 + n % 2);
    }
    MEMBER void taken() {
        __syncwarp();
        meet<false>(8 + n++ % 2);
    }
};

// Reads a row of `cols`: letters of `number`, or what is there if there is no mail.
template <typename Rows>
__noinline__ __device__ void fetch_row(const ulong *mail, uint number, const float *x, const float *norm, uint cols, float eps) {
    __shared__ float partial[32];
    RowNorm<ROW_QUADS> weights;
    weights.load(norm, cols);
    block_barrier();
    if (mail) {
        // If all threads asked again and again, memory would be too busy for what they wait for.
        TwoLetters two;
        if (threadIdx.x % 32 == 0) {
            two.receive(mail + weights.at(0) % cols + 2, number);
            if (ROW_QUADS > 1) two.receive(mail + weights.at(1) % cols, number);
        }
        __syncwarp();
    }
    float4 v[ROW_QUADS];
    UNROLL
    for (uint n = 0; n < ROW_QUADS; n++) {
        const uint at = weights.at(n);
        v[n] = mail && at < cols ? receive_four(mail + at, number) : load_or_zero(x, at, mail ? 0 : cols);
    }
    uchar *to = Handover::rows();
    weights.apply(v, norm, cols, (cols + 63) / 64 * 64, eps, partial,
                  [&](uint i, float4 v, float scale) { Rows::put(to + i / 64 * Rows::SHARED_BYTES, i, v, scale); });
    block_barrier();
}

// The letters of a row in blocks of 32 columns: integers, in the order of `QuantisedRows`; of each block its scale and the sum
// of its integers; sums of squares.
struct BlockLetters {
    enum { WORDS = 16, BYTES = QuantisedRows<true>::SHARED_BYTES };
    ulong *words, *scales, *squares;
    MEMBER BlockLetters(ulong *mail, uint cols) : words(mail), scales(mail + cols / 4), squares(scales + cols / 16) {}

    // Sends a block, of which each lane has a column: its `value`, and `weighted`, which is to be rounded, as `RoundedFour` does.
    MEMBER void send_block(uint block, float value, float weighted, uint number) const {
        const uint lane = threadIdx.x % 32, quad = lane & 28;
        const float4 four = {__shfl_sync(0xffffffff, value, quad), __shfl_sync(0xffffffff, value, quad + 1),
                             __shfl_sync(0xffffffff, value, quad + 2), __shfl_sync(0xffffffff, value, quad + 3)};
        float square = sum_of_squares(four);
        for (uint i = 4; i < 32; i *= 2) square += __shfl_xor_sync(0xffffffff, square, i);
        // Bits of positive numbers are in their order, and NaN behind them.
        const float m = float_of_bits(simd_max(bits_of_float(fabsf(weighted))));
        const int q = __float2int_rn(weighted * (m > 0 ? 127.0f / m : m));
        const uint total = simd_sum(uint(q));
        uint word = uint(q & 255) << 8 * (lane % 4);
        for (uint i = 1; i < 4; i *= 2) word |= __shfl_xor_sync(0xffffffff, word, i);
        ulong *to = words + WORDS * (block / 2) + 4 * (lane % 16 / 4) + 2 * (block % 2) + lane / 16;
        if (lane == 1) to = scales + 2 * block, word = bits_of_float(m / 127.0f);
        if (lane == 2) to = scales + 2 * block + 1, word = total;
        if (lane == 3) to = squares + block, word = bits_of_float(square);
        if (lane % 4 == 0 || lane < 4) send(to, word, number);
    }
};

// What RMSNorm multiplies a row with whose sums of 128 columns each are in `partial`.
FN float scale_of_blocks(const float *partial, uint cols, float eps) {
    const uint lane = threadIdx.x % 32, n = (cols + 127) / 128;
    float sum = lane < n ? partial[lane] : 0;
    if (lane + 32 < n) sum += partial[lane + 32];
    return scale_of_sum(sum, cols, eps);
}

// Reads a row that is in such letters.
__noinline__ __device__ void fetch_blocks(ulong *mail, uint number, uint cols, uint has_norm, float eps) {
    __shared__ float partial[64];
    const BlockLetters from(mail, cols);
    uchar *rows = Handover::rows();
    const uint block = threadIdx.x;
    const bool exists = block < cols / 32, has_squares = exists && block % 2 == 0;
    // If all threads asked again and again, memory would be too busy for what they wait for.
    if (threadIdx.x == 0) TwoLetters().receive(from.words, number);
    block_barrier();
    TwoLetters scales = {}, squares = {};
    if (exists) scales.read(from.scales + 2 * block);
    if (has_squares) squares.read(from.squares + block);
    for (uint i = 2 * threadIdx.x; i < cols / 4; i += 2 * n_threads()) {
        TwoLetters words;
        words.receive(from.words + i, number);
        *(uint2 *)(rows + i / BlockLetters::WORDS * BlockLetters::BYTES + 4 * (i % BlockLetters::WORDS)) =
            make_uint2(uint(words.first), uint(words.second));
    }
    while (has_squares && !squares.have(number)) squares.read(from.squares + block);
    while (exists && !scales.have(number)) scales.read(from.scales + 2 * block);
    __syncwarp();
    float sum = float_of_bits(uint(squares.first)) + float_of_bits(uint(squares.second));
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    if (exists && block % 4 == 0) partial[block / 4] = sum;
    block_barrier();
    if (block / 32 * 32 < cols / 32) {
        const float scale = has_norm ? scale_of_blocks(partial, cols, eps) : 1;
        const float d = float_of_bits(uint(scales.first)) * scale;
        float *to = (float *)(rows + block / 2 * BlockLetters::BYTES + 4 * BlockLetters::WORDS) + 2 * (block % 2);
        if (exists) to[0] = d, to[4] = d * float(int(scales.second));
    }
    block_barrier();
}

// Reads a row that a map's results were added to.
template <typename Rows> FN void fetch_sent(ulong *mail, uint number, const TileShape &shape, const float *norm) {
    if (STEP_IN_BLOCKS) fetch_blocks(mail, number, shape.cols, shape.has_norm, shape.eps);
    else fetch_row<Rows>(mail, number, 0, shape.has_norm ? norm : 0, shape.cols, shape.eps);
}

#endif
#endif
