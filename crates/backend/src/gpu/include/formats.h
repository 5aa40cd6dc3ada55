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

// Blocks of 32: four elements of the first half and four of the second, which
// is what four bytes of 4-bit quants hold.
struct HalvesPlaces {
    enum { LEN = 32, PARTS = 4, PART = 8 };
    static MEMBER uint place(uint part, uint i) { return i / 4 * 16 + part * 4 + i % 4; }
    // Rows of whole blocks start at multiples of 16 bytes.
    static MEMBER void load(DEVICE const float *x, uint part, THREAD float *values) {
        const float4 a = ((DEVICE const float4 *)x)[part], b = ((DEVICE const float4 *)x)[part + 4];
        values[0] = a.x, values[1] = a.y, values[2] = a.z, values[3] = a.w;
        values[4] = b.x, values[5] = b.y, values[6] = b.z, values[7] = b.w;
    }
};
struct Q4_0 : HalvesPlaces { typedef block_q4_0 Block; };
struct Q4_1 : HalvesPlaces { typedef block_q4_1 Block; };
struct Q8_0 : HalvesPlaces { typedef block_q8_0 Block; };

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

FN void unpack(DEVICE const block_q8_0 *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d);
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = d * float(block->qs[HalvesPlaces::place(part, i)]);
}

// `KERNELS(OP, Format, name)` for each: the kernels that one op has for it.
#define WEIGHT_FORMATS(KERNELS, OP) \
    KERNELS(OP, F32, f32)           \
    KERNELS(OP, F16, f16)           \
    KERNELS(OP, BF16, bf16)         \
    KERNELS(OP, Q4_0, q4_0)         \
    KERNELS(OP, Q4_1, q4_1)         \
    KERNELS(OP, Q8_0, q8_0)

#endif
