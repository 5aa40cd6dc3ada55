// Rows of activations as the kernels over tiles take them; one threadgroup a row.
//
// Generated rows meet weights of integers as 8-bit integers (`Quantise`), and
// those of bfloat16 as three bfloat16 that add up to the float (`Split`).
// Eight rows stand together in the order of a matrix instruction's second
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
#define SPLIT_PARTS 3

FN uchar *place_of(uchar *out, uint row, uint col, uint n_tiles, uint tile_bytes) {
    return out + (ulong(row / 8) * n_tiles + col / 64) * tile_bytes;
}

// Blocks of 32 columns rounded to 8 bits; eight lanes share one, four columns each.
struct Quantise {
    uchar *out;
    uint n_tiles;
    MEMBER void operator()(uint row, uint col, float4 v) const {
        const uint group = 0xffu << (threadIdx.x & 24);
        float m = larger_or_nan(larger_or_nan(fabsf(v.x), fabsf(v.y)), larger_or_nan(fabsf(v.z), fabsf(v.w)));
        for (uint i = 1; i < 8; i *= 2) m = larger_or_nan(m, __shfl_xor_sync(group, m, i));
        // A NaN must stay one: the scale carries it.
        const float d = m / 127.0f, inverse = m > 0 ? 127.0f / m : m;
        const int q[4] = {__float2int_rn(v.x * inverse), __float2int_rn(v.y * inverse),
                          __float2int_rn(v.z * inverse), __float2int_rn(v.w * inverse)};
        int sum = q[0] + q[1] + q[2] + q[3];
        for (uint i = 1; i < 8; i *= 2) sum += __shfl_xor_sync(group, sum, i);
        uchar *tile = place_of(out, row, col, n_tiles, QUANTISED_BYTES);
        const uint g = row % 8, block = col / 32 % 2, half = col / 16 % 2, t = col % 16 / 4;
        const uint word = (q[0] & 255) | (q[1] & 255) << 8 | (q[2] & 255) << 16 | uint(q[3]) << 24;
        ((uint *)tile)[4 * (4 * g + t) + 2 * block + half] = word;
        if (col % 32 == 0) {
            float *scales = (float *)(tile + 512) + g / 2 * 4 + block * 2 + g % 2;
            scales[0] = d;
            scales[16] = d * float(sum);
        }
    }
};

// A float as the sum of three bfloat16, which hold all of its bits.
struct Split {
    uchar *out;
    uint n_tiles;
    MEMBER void operator()(uint row, uint col, float4 v) const {
        uchar *tile = place_of(out, row, col, n_tiles, SPLIT_PARTS * SPLIT_BYTES);
        const uint lane = 4 * (row % 8) + col % 16 / 4;
        UNROLL
        for (uint part = 0; part < SPLIT_PARTS; part++) {
            uint *to = (uint *)(tile + part * SPLIT_BYTES) + 2 * (32 * (col / 16 % 4) + lane);
            const uint low = pack_bf16(v.x, v.y), high = pack_bf16(v.z, v.w);
            to[0] = low, to[1] = high;
            v.x -= bfloat_to_float(low & 0xffff), v.y -= bfloat_to_float(low >> 16);
            v.z -= bfloat_to_float(high & 0xffff), v.w -= bfloat_to_float(high >> 16);
        }
    }
};

// bfloat16, as prompt_x.h lays it out.
struct Round {
    ushort *out;
    uint x_rows;
    MEMBER void operator()(uint row, uint col, float4 v) const {
        *(uint *)(out + prompt_x_at(row, col, x_rows)) = pack_bf16(v.x, v.y);
        *(uint *)(out + prompt_x_at(row, col + 2, x_rows)) = pack_bf16(v.z, v.w);
    }
};

// Converts a row as it is, or normalised by `norm`. Results count from the first row.
template <typename Convert>
FN void convert_row(const ConvertArgs &args, const uint *inputs, const float *x, const float *norm, float *partial,
                    const Convert &convert) {
    const Threads t = threads();
    allow_next();
    wait_for_inputs();
    const uint row = inputs[args.first_at] + blockIdx.y;
    if (row >= inputs[args.end_at]) return;
    x += ulong(args.gather_at ? inputs[args.gather_at + row] : row) * args.cols;
    float scale = 1;
    if (norm) {
        float squares = 0;
        for (uint i = 4 * t.index; i < args.cols; i += 4 * t.count) {
            const float4 v = *(const float4 *)(x + i);
            squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
        }
        scale = 1.0f / exact_sqrt(group_sum(squares, partial, t) / float(args.cols) + args.eps);
    }
    for (uint i = 4 * t.index; i < 64 * args.n_tiles; i += 4 * t.count) {
        float4 v = {0, 0, 0, 0};
        if (i < args.cols) v = *(const float4 *)(x + i);
        if (norm && i < args.cols) {
            const float4 w = *(const float4 *)(norm + i);
            v.x = v.x * scale * w.x, v.y = v.y * scale * w.y, v.z = v.z * scale * w.z, v.w = v.w * scale * w.w;
        }
        convert(blockIdx.y, i, v);
    }
}

#endif
