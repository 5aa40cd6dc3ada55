// Rows of activations as the kernels over tiles take them; one threadgroup a row that is normalised.
//
// Generated rows meet weights of integers as 8-bit integers (`Quantise`), and
// those of bfloat16 as three bfloat16 that add up to the float (`Split<3>`); or
// all weights as one bfloat16 (`Split<1>`). Eight rows stand together in the order of a matrix instruction's second
// operand: of each 64 columns, lane 4 g + t has those of row g from 4 t on.
// Prompt rows are one bfloat16 for each float (`Round`).
#ifndef QUARREL_ACTIVATIONS_H
#define QUARREL_ACTIVATIONS_H

#include "args.h"
#include "cuda.h"
#include "normalise.h"
#include "prompt_x.h"

// Bytes of 64 columns of eight rows: integers, scales, and scales times sums.
#define QUANTISED_BYTES 640
// Bytes of 64 columns of eight rows in bfloat16, once for each part.
#define SPLIT_BYTES 1024

FN float4 scaled(float4 v, float scale) {
    v.x *= scale, v.y *= scale, v.z *= scale, v.w *= scale;
    return v;
}

// What becomes of results that a map follows: `Form::as_results` counts as this does.
#define FLOATS 0
#define QUANTISED 1
#define ROUNDED 2
#define PROMPT 3

FN uchar *place_of(uchar *out, uint row, uint col, uint n_tiles, uint tile_bytes) {
    return out + (ulong(row / 8) * n_tiles + col / 64) * tile_bytes;
}

// Four of a block of 32 columns, times `scale`, rounded to 8 bits; eight lanes share it. The block's own scale is
// multiplied: blocks can be rounded before anybody knows the row's.
struct RoundedFour {
    uint word;
    float d, sum;
    MEMBER RoundedFour(float4 v, float scale) {
        const uint group = 0xffu << (threadIdx.x & 24);
        float m = larger_or_nan(larger_or_nan(fabsf(v.x), fabsf(v.y)), larger_or_nan(fabsf(v.z), fabsf(v.w)));
        for (uint i = 1; i < 8; i *= 2) m = larger_or_nan(m, __shfl_xor_sync(group, m, i));
        // A NaN must stay one: the scale carries it.
        const float inverse = m > 0 ? 127.0f / m : m;
        const int q[4] = {__float2int_rn(v.x * inverse), __float2int_rn(v.y * inverse),
                          __float2int_rn(v.z * inverse), __float2int_rn(v.w * inverse)};
        int total = q[0] + q[1] + q[2] + q[3];
        for (uint i = 1; i < 8; i *= 2) total += __shfl_xor_sync(group, total, i);
        word = (q[0] & 255) | (q[1] & 255) << 8 | (q[2] & 255) << 16 | uint(q[3]) << 24;
        d = m / 127.0f * scale, sum = d * float(total);
    }
};

// A block of 32 columns of row `g` of a tile, of which each of 16 lanes has one of the first
// half and one of the second, as `RoundedFour` would round it.
template <bool SINGLE> FN void quantise_pair(uchar *tile, uint g, uint block, float first, float second) {
    const uint lane = threadIdx.x % 16, group = 0xffffu << (threadIdx.x & 16);
    float m = larger_or_nan(fabsf(first), fabsf(second));
    for (uint i = 1; i < 16; i *= 2) m = larger_or_nan(m, __shfl_xor_sync(group, m, i));
    const float inverse = m > 0 ? 127.0f / m : m;
    const int q0 = __float2int_rn(first * inverse), q1 = __float2int_rn(second * inverse);
    int total = q0 + q1;
    for (uint i = 1; i < 16; i *= 2) total += __shfl_xor_sync(group, total, i);
    uchar *words = tile + 4 * (4 * ((SINGLE ? 0 : 4 * g) + lane / 4) + 2 * block) + lane % 4;
    words[0] = uchar(q0), words[4] = uchar(q1);
    if (lane > 0) return;
    const float d = m / 127.0f;
    float *scales = (float *)(tile + (SINGLE ? 64 : 512)) + (SINGLE ? 0 : g / 2 * 4) + block * 2 + (SINGLE ? 0 : g % 2);
    scales[0] = d, scales[SINGLE ? 4 : 16] = d * float(total);
}

struct Quantise {
    uchar *out;
    uint n_tiles;
    MEMBER void operator()(uint row, uint col, float4 v, float scale = 1) const {
        const RoundedFour rounded(v, scale);
        uchar *tile = place_of(out, row, col, n_tiles, QUANTISED_BYTES);
        const uint g = row % 8, block = col / 32 % 2, half = col / 16 % 2, t = col % 16 / 4;
        ((uint *)tile)[4 * (4 * g + t) + 2 * block + half] = rounded.word;
        if (col % 32 == 0) {
            float *scales = (float *)(tile + 512) + g / 2 * 4 + block * 2 + g % 2;
            scales[0] = rounded.d;
            scales[16] = rounded.sum;
        }
    }
};

// Four floats, each as the sum of N bfloat16; three hold all of its bits. The even ones are a pair, and the odd
// ones (`slot_of`).
template <uint N> struct Parts {
    uint2 pairs[N];
    MEMBER Parts(float4 v) {
        UNROLL
        for (uint part = 0; part < N; part++) {
            const uint even = pack_bf16(v.x, v.z), odd = pack_bf16(v.y, v.w);
            pairs[part] = make_uint2(even, odd);
            v.x -= bfloat_to_float(even & 0xffff), v.z -= bfloat_to_float(even >> 16);
            v.y -= bfloat_to_float(odd & 0xffff), v.w -= bfloat_to_float(odd >> 16);
        }
    }
};

template <uint N> struct Split {
    uchar *out;
    uint n_tiles;
    MEMBER void operator()(uint row, uint col, float4 v, float scale = 1) const {
        uchar *tile = place_of(out, row, col, n_tiles, N * SPLIT_BYTES);
        const uint lane = 4 * (row % 8) + col % 16 / 4;
        const Parts<N> parts(scaled(v, scale));
        UNROLL
        for (uint part = 0; part < N; part++) {
            *(uint2 *)(tile + part * SPLIT_BYTES + 8 * (32 * (col / 16 % 4) + lane)) = parts.pairs[part];
        }
    }
};

// bfloat16, as prompt_x.h lays it out.
struct Round {
    ushort *out;
    uint x_rows;
    MEMBER void operator()(uint row, uint col, float4 v, float scale = 1) const {
        v = scaled(v, scale);
        *(uint *)(out + prompt_x_at(row, col, x_rows)) = pack_bf16(v.x, v.z);
        *(uint *)(out + prompt_x_at(row, col + 1, x_rows)) = pack_bf16(v.y, v.w);
    }
};

// Lanes that share a row's sum of squares: as many whatever the block's threads, so
// that the sum is taken in one order. Of what comes to the same 32 lanes, 128 columns at a time are added up first.
FN uint norm_lanes(uint cols) { return min(1024u, (cols / 4 + 31) / 32 * 32); }

// Loads of a thread that are under way together.
#define LOADS 4

FN float4 load_or_zero(const float *x, uint i, uint end) {
    const float4 zero = {0, 0, 0, 0};
    return i < end ? *(const float4 *)(x + i) : zero;
}

FN float sum_of_squares(float4 v) { return fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, v.w * v.w))); }

// The sum over a SIMD-group, neighbours first: that of eight lanes, which have a block of 32 columns, is the sum that
// `step_row.h` takes of the block.
FN float sum_of_neighbours(float x) {
    for (uint i = 1; i < 32; i *= 2) x += __shfl_xor_sync(0xffffffff, x, i);
    return x;
}

// What RMSNorm multiplies a row with of whose squares each lane of a SIMD-group has a sum.
FN float scale_of_sum(float squares, uint cols, float eps) {
    return 1.0f / exact_sqrt(simd_sum(squares) / float(cols) + eps);
}
// The same where the sums of 32 lanes each are in `partial`.
FN float scale_of_sums(const float *partial, uint lanes, uint cols, float eps) {
    const uint lane = threadIdx.x % 32;
    return scale_of_sum(lane < lanes / 32 ? partial[lane] : 0.0f, cols, eps);
}

FN float4 weighted(float4 v, float4 weight) {
    v.x *= weight.x, v.y *= weight.y, v.z *= weight.z, v.w *= weight.w;
    return v;
}

// What RMSNorm multiplies a row with. `partial` has 32 places.
FN float norm_scale(const float *x, uint cols, float eps, float *partial) {
    const uint lanes = norm_lanes(cols);
    for (uint lane = threadIdx.x; lane < lanes; lane += LOADS * n_threads()) {
        float squares[LOADS] = {};
        for (uint start = 0; start < cols; start += 4 * lanes) {
            float4 v[LOADS];
            UNROLL
            for (uint n = 0; n < LOADS; n++) {
                const uint at = lane + n * n_threads();
                v[n] = load_or_zero(x, start + 4 * at, at < lanes ? cols : 0);
            }
            UNROLL
            for (uint n = 0; n < LOADS; n++) squares[n] += sum_of_neighbours(sum_of_squares(v[n]));
        }
        UNROLL
        for (uint n = 0; n < LOADS; n++) {
            const uint at = lane + n * n_threads();
            if (at < lanes && at % 32 == 0) partial[at / 32] = squares[n];
        }
    }
    block_barrier();
    return scale_of_sums(partial, lanes, cols, eps);
}

// Calls `put(i, four elements, scale)` for a row, whose elements are to be multiplied with `scale` yet, with the norm's
// weights where there is a norm, and zeros behind its end, by threads `from` to `from + step` and so on.
template <typename Put>
FN void for_elements(const float *x, const float *norm, float scale, uint cols, uint padded, uint from, uint step,
                     const Put &put) {
    for (uint first = 4 * from; first < padded; first += 4 * LOADS * step) {
        float4 v[LOADS], w[LOADS];
        UNROLL
        for (uint n = 0; n < LOADS; n++) {
            v[n] = load_or_zero(x, first + 4 * n * step, cols);
            if (norm) w[n] = load_or_zero(norm, first + 4 * n * step, cols);
        }
        UNROLL
        for (uint n = 0; n < LOADS; n++) {
            const uint i = first + 4 * n * step;
            if (i >= padded) break;
            if (norm) v[n] = weighted(v[n], w[n]);
            put(i, v[n], scale);
        }
    }
}

#endif
