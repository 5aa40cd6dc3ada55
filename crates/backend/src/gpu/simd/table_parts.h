// Parts of formats of 4-bit codes that stand for the entries of a table (table_formats.h). Part of weight_parts.h.
#ifndef QUARREL_TABLE_PARTS_H
#define QUARREL_TABLE_PARTS_H

#include "weight_parts.h"

// What the bytes of two words stand for.
FN void look_up(Eight codes, constant float *values, thread float *w) {
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = values[(codes.words[i / 4] >> (8 * (i % 4))) & 15];
}

template <> struct Part<IQ4_NL> : HalfBytes<IQ4_NL, 16> {
    static Common weights(device const block_iq4_nl *block, uint part, uint run, thread float *w) {
        look_up(halves(block->qs, part, run), iq4_values, w);
        return Common{half_to_float(block->d), 0};
    }
};

template <> struct Part<IQ4_XS> : HalfBytes<IQ4_XS, 16> {
    static Common weights(device const block_iq4_xs *block, uint part, uint run, thread float *w) {
        look_up(halves(block->qs, part, run), iq4_values, w);
        return Common{iq4_xs_scale(block, part / 2), 0};
    }
};

// Blocks of 17 bytes lie at odd addresses too.
template <> struct Part<MXFP4> : HalfBytes<MXFP4, 16> {
    static Common weights(device const block_mxfp4 *block, uint part, uint run, thread float *w) {
        device const uchar *codes = block->qs + 8 * part;
        UNROLL
        for (uint i = 0; i < 8; i++) w[i] = e2m1_doubled[(codes[i] >> (4 * run)) & 15];
        return Common{half_e8m0(block->e), 0};
    }
};

#endif
