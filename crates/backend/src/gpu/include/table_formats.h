// Formats of 4-bit codes that stand for the entries of a table. Part of formats.h.
#ifndef QUARREL_TABLE_FORMATS_H
#define QUARREL_TABLE_FORMATS_H

#include "formats.h"

TABLE float iq4_values[16] = GGUF_IQ4_VALUES;
TABLE float e2m1_doubled[16] = GGUF_E2M1_DOUBLED;

struct IQ4_NL : RunPlaces<GGUF_IQ4_NL_LEN, 16, 16> { typedef block_iq4_nl Block; };
struct IQ4_XS : RunPlaces<GGUF_IQ4_XS_LEN, 16, 16> { typedef block_iq4_xs Block; };
struct MXFP4 : RunPlaces<GGUF_MXFP4_LEN, 16, 16> { typedef block_mxfp4 Block; };

// Byte by byte: blocks of MXFP4, of 17 bytes, lie at odd addresses too.
FN void look_up(DEVICE const uchar *codes, uint part, CONSTANT float *values, float scale, THREAD float *w) {
    UNROLL
    for (uint i = 0; i < 4; i++) {
        const uint both = codes[4 * part + i];
        w[i] = scale * values[both & 15];
        w[i + 4] = scale * values[both >> 4];
    }
}

FN void unpack(DEVICE const block_iq4_nl *block, uint part, THREAD float *w) {
    look_up(block->qs, part, iq4_values, half_to_float(block->d), w);
}

// A group's scale: its 6 bits, from -32 to 31, times the block's.
FN float iq4_xs_scale(DEVICE const block_iq4_xs *block, uint group) {
    const uint low = (block->scales_l[group / 2] >> (group % 2 * 4)) & 15;
    const uint high = (block->scales_h[group / 4] >> (group % 4 * 2)) & 3;
    return half_to_float(block->d) * (float(low | high << 4) - 32.0f);
}

FN void unpack(DEVICE const block_iq4_xs *block, uint part, THREAD float *w) {
    look_up(block->qs, part, iq4_values, iq4_xs_scale(block, part / 4), w);
}

// Half of the power of two that an e8m0 exponent stands for, to go with doubled elements; the two smallest are
// subnormal.
FN float half_e8m0(uint exponent) {
    return float_of_bits(exponent < 2 ? 0x00200000u << exponent : (exponent - 1) << 23);
}

FN void unpack(DEVICE const block_mxfp4 *block, uint part, THREAD float *w) {
    look_up(block->qs, part, e2m1_doubled, half_e8m0(block->e), w);
}

#endif
