// How each weight format becomes floats.
//
// A format has blocks of LEN elements that PARTS lanes share, PART for each:
// `place` says which those are, `unpack` gives their values, and `load` the
// activations that belong to them. Neighbouring lanes take neighbouring parts,
// so that loads of both are coalesced.
#ifndef QUARREL_FORMATS_H
#define QUARREL_FORMATS_H

#include "dialect.h"
// Made from the table of formats.
#include "blocks.h"

struct block_f16 { ushort bits; };
struct block_bf16 { ushort bits; };

// Plain floats: one element a lane.
struct PlainPlaces {
    enum { LEN = 1, PARTS = 1, PART = 1 };
    static MEMBER uint place(uint part, uint i) { return part + i; }
    static MEMBER void load(DEVICE const float *x, uint part, THREAD float *values) { values[0] = x[part]; }
};
struct F32 : PlainPlaces { typedef float Block; };
struct F16 : PlainPlaces { typedef block_f16 Block; };
struct BF16 : PlainPlaces { typedef block_bf16 Block; };

// Four activations, and four more at a distance; rows of whole blocks start at
// multiples of 16 bytes.
FN void load_runs(DEVICE const float *x, uint distance, THREAD float *values) {
    DEVICE const float4 *runs = (DEVICE const float4 *)x;
    const float4 a = runs[0], b = runs[distance / 4];
    values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
    values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
}

// Four bytes hold four elements in their low halves, and four DISTANCE further
// in their high ones; SHARE bytes follow each other before the elements go on.
template <uint BLOCK_LEN, uint DISTANCE, uint SHARE> struct RunPlaces {
    enum { LEN = BLOCK_LEN, PARTS = BLOCK_LEN / 8, PART = 8 };
    static MEMBER uint place(uint part, uint i) {
        const uint byte = 4 * part, first = byte / SHARE * (2 * SHARE) + byte % SHARE;
        return first + (i / 4) * DISTANCE + i % 4;
    }
    static MEMBER void load(DEVICE const float *x, uint part, THREAD float *values) {
        load_runs(x + place(part, 0), DISTANCE, values);
    }
};
struct Q4_0 : RunPlaces<GGUF_Q4_0_LEN, 16, 16> { typedef block_q4_0 Block; };
struct Q4_1 : RunPlaces<GGUF_Q4_1_LEN, 16, 16> { typedef block_q4_1 Block; };
struct Q5_0 : RunPlaces<GGUF_Q5_0_LEN, 16, 16> { typedef block_q5_0 Block; };
struct Q5_1 : RunPlaces<GGUF_Q5_1_LEN, 16, 16> { typedef block_q5_1 Block; };
struct Q8_0 : RunPlaces<GGUF_Q8_0_LEN, 16, 16> { typedef block_q8_0 Block; };
struct Q4_K : RunPlaces<GGUF_Q4_K_LEN, 32, 32> { typedef block_q4_k Block; };
struct Q5_K : RunPlaces<GGUF_Q5_K_LEN, 32, 32> { typedef block_q5_k Block; };
struct Q6_K : RunPlaces<GGUF_Q6_K_LEN, 64, 64> { typedef block_q6_k Block; };

FN void unpack(DEVICE const float *block, uint part, THREAD float *w) { w[0] = block[part]; }
FN void unpack(DEVICE const block_f16 *block, uint part, THREAD float *w) { w[0] = half_to_float(block[part].bits); }
FN void unpack(DEVICE const block_bf16 *block, uint part, THREAD float *w) { w[0] = bfloat_to_float(block[part].bits); }

// Four bytes of 4-bit quants: the low halves to `w[0..4]`, the high ones to `w[4..8]`.
FN void unpack_nibbles(DEVICE const uchar *quants, uint part, THREAD float *w) {
    // Blocks lie at even addresses.
    DEVICE const ushort *pairs = (DEVICE const ushort *)quants + 2 * part;
    const uint q = pairs[0] | uint(pairs[1]) << 16;
    UNROLL
    for (uint i = 0; i < 4; i++) {
        w[i] = float((q >> (8 * i)) & 15);
        w[i + 4] = float((q >> (8 * i + 4)) & 15);
    }
}

FN void unpack(DEVICE const block_q4_0 *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d);
    unpack_nibbles(block->qs, part, w);
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = d * (w[i] - 8.0f);
}

FN void unpack(DEVICE const block_q4_1 *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d), m = half_to_float(block->m);
    unpack_nibbles(block->qs, part, w);
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = d * w[i] + m;
}

// Adds the fifth bits of a block of 32, one bit an element.
FN void add_fifths(DEVICE const uchar *bits, uint part, THREAD float *w) {
    const uint low = bits[part / 2] >> (part % 2 * 4), high = bits[2 + part / 2] >> (part % 2 * 4);
    UNROLL
    for (uint i = 0; i < 4; i++) {
        w[i] += float(((low >> i) & 1) * 16);
        w[i + 4] += float(((high >> i) & 1) * 16);
    }
}

FN void unpack(DEVICE const block_q5_0 *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d);
    unpack_nibbles(block->qs, part, w);
    add_fifths(block->qh, part, w);
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = d * (w[i] - 16.0f);
}

FN void unpack(DEVICE const block_q5_1 *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d), m = half_to_float(block->m);
    unpack_nibbles(block->qs, part, w);
    add_fifths(block->qh, part, w);
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = d * w[i] + m;
}

FN void unpack(DEVICE const block_q8_0 *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d);
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = d * float(block->qs[Q8_0::place(part, i)]);
}

// The 6-bit scale and minimum of a group of 32 in a block of 256: those of
// groups 0 to 3 in six bits each, of the others in four bits, their upper two
// in the first ones' tops.
FN void scale_and_minimum(DEVICE const uchar *packed, uint group, THREAD uint &scale, THREAD uint &minimum) {
    const uint i = group % 4;
    const uint a = packed[i], b = packed[i + 4], low = packed[i + 8];
    scale = group < 4 ? a & 63 : (low & 15) | (a >> 6 << 4);
    minimum = group < 4 ? b & 63 : (low >> 4) | (b >> 6 << 4);
}

// `d * s * q - dmin * m` for a part's two runs, which are of neighbouring groups.
FN void scale_groups(float d, float dmin, DEVICE const uchar *packed, uint part, THREAD float *w) {
    UNROLL
    for (uint run = 0; run < 2; run++) {
        uint s, m;
        scale_and_minimum(packed, part / 8 * 2 + run, s, m);
        const float scale = d * float(s), offset = -(dmin * float(m));
        UNROLL
        for (uint i = 4 * run; i < 4 * run + 4; i++) w[i] = scale * w[i] + offset;
    }
}

FN void unpack(DEVICE const block_q4_k *block, uint part, THREAD float *w) {
    unpack_nibbles(block->qs, part, w);
    scale_groups(half_to_float(block->d), half_to_float(block->dmin), block->scales, part, w);
}

FN void unpack(DEVICE const block_q5_k *block, uint part, THREAD float *w) {
    unpack_nibbles(block->qs, part, w);
    const uint group = part / 8 * 2;
    UNROLL
    for (uint i = 0; i < 4; i++) {
        const uint bits = block->qh[part % 8 * 4 + i] >> group;
        w[i] += float((bits & 1) * 16);
        w[i + 4] += float(((bits >> 1) & 1) * 16);
    }
    scale_groups(half_to_float(block->d), half_to_float(block->dmin), block->scales, part, w);
}

FN void unpack(DEVICE const block_q6_k *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d);
    unpack_nibbles(block->ql, part, w);
    // 128 elements are four quarters; the runs are of a quarter and the next but one.
    const uint upper = part / 16, quarter = part / 8 % 2;
    UNROLL
    for (uint i = 0; i < 4; i++) {
        const uint bits = block->qh[upper * 32 + part % 8 * 4 + i] >> (2 * quarter);
        w[i] += float((bits & 3) * 16);
        w[i + 4] += float(((bits >> 4) & 3) * 16);
    }
    UNROLL
    for (uint run = 0; run < 2; run++) {
        const float scale = d * float(block->scales[Q6_K::place(part, 4 * run) / 16]);
        UNROLL
        for (uint i = 4 * run; i < 4 * run + 4; i++) w[i] = scale * (w[i] - 32.0f);
    }
}

// The other families.
#include "pair_formats.h"
#include "table_formats.h"

// `KERNELS(OP, Format, name)` for each: the kernels that one op has for it.
// Whoever needs those of one format alone defines it before.
#ifndef WEIGHT_FORMATS
#define WEIGHT_FORMATS(KERNELS, OP) \
    KERNELS(OP, F32, f32)           \
    KERNELS(OP, F16, f16)           \
    KERNELS(OP, BF16, bf16)         \
    KERNELS(OP, Q4_0, q4_0)         \
    KERNELS(OP, Q4_1, q4_1)         \
    KERNELS(OP, Q5_0, q5_0)         \
    KERNELS(OP, Q5_1, q5_1)         \
    KERNELS(OP, Q8_0, q8_0)         \
    KERNELS(OP, Q2_K, q2_k)         \
    KERNELS(OP, Q3_K, q3_k)         \
    KERNELS(OP, Q4_K, q4_k)         \
    KERNELS(OP, Q5_K, q5_k)         \
    KERNELS(OP, Q6_K, q6_k)         \
    KERNELS(OP, IQ4_NL, iq4_nl)     \
    KERNELS(OP, IQ4_XS, iq4_xs)     \
    KERNELS(OP, TQ2_0, tq2_0)       \
    KERNELS(OP, MXFP4, mxfp4)
#endif

#endif
