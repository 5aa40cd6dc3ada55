// Formats of 2-bit quants: 128 elements share 32 bytes, each quarter of 32 in its two bits.
// Part of formats.h.
#ifndef QUARREL_PAIR_FORMATS_H
#define QUARREL_PAIR_FORMATS_H

#include "formats.h"

// A part's runs are of a quarter and the next one.
struct Q2_K : RunPlaces<GGUF_Q2_K_LEN, 32, 32> { typedef block_q2_k Block; };
struct Q3_K : RunPlaces<GGUF_Q3_K_LEN, 32, 32> { typedef block_q3_k Block; };
struct TQ2_0 : RunPlaces<GGUF_TQ2_0_LEN, 32, 32> { typedef block_tq2_0 Block; };

FN void unpack_pairs(DEVICE const uchar *quants, uint part, THREAD float *w) {
    UNROLL
    for (uint i = 0; i < 4; i++) {
        const uint bits = quants[part / 16 * 32 + part % 8 * 4 + i] >> (part / 8 % 2 * 4);
        w[i] = float(bits & 3);
        w[i + 4] = float((bits >> 2) & 3);
    }
}

FN void unpack(DEVICE const block_q2_k *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d), dmin = half_to_float(block->dmin);
    unpack_pairs(block->qs, part, w);
    UNROLL
    for (uint run = 0; run < 2; run++) {
        const uint both = block->scales[Q2_K::place(part, 4 * run) / GGUF_Q2_K_GROUP];
        const float scale = d * float(both & 15), offset = -(dmin * float(both >> 4));
        UNROLL
        for (uint i = 4 * run; i < 4 * run + 4; i++) w[i] = scale * w[i] + offset;
    }
}

// The 6-bit scale of a group, from -32 to 31: four bits of it in the halves of eight bytes, two in quarters of
// the four behind them.
FN float q3_k_scale(DEVICE const uchar *packed, uint group) {
    const uint low = (packed[group % 8] >> (group / 8 * 4)) & 15;
    const uint high = (packed[8 + group % 4] >> (group / 4 * 2)) & 3;
    return float(low | high << 4) - 32.0f;
}

FN void unpack(DEVICE const block_q3_k *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d);
    unpack_pairs(block->qs, part, w);
    UNROLL
    for (uint run = 0; run < 2; run++) {
        const float scale = d * q3_k_scale(block->scales, Q3_K::place(part, 4 * run) / GGUF_Q3_K_GROUP);
        UNROLL
        for (uint i = 0; i < 4; i++) {
            const uint third = (block->hmask[part % 8 * 4 + i] >> (part / 8 * 2 + run)) & 1;
            w[4 * run + i] = scale * (w[4 * run + i] + float(third * 4) - 4.0f);
        }
    }
}

FN void unpack(DEVICE const block_tq2_0 *block, uint part, THREAD float *w) {
    const float d = half_to_float(block->d);
    unpack_pairs(block->qs, part, w);
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = d * (w[i] - 1.0f);
}

#endif
