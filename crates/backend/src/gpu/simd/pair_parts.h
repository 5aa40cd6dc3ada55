// Parts of formats of 2-bit quants; a part's runs are of a quarter and the next one (pair_formats.h).
// Part of weight_parts.h.
#ifndef QUARREL_PAIR_PARTS_H
#define QUARREL_PAIR_PARTS_H

#include "weight_parts.h"

// Two bits of each of a run's bytes.
FN Eight pairs(device const uchar *quants, uint part, uint run) {
    const Eight bytes = eight_bytes(quants + part / 8 * 32 + part % 4 * 8);
    return bits_of_each(bytes, part / 4 % 2 * 4 + 2 * run, 0x03030303u);
}

template <> struct Part<Q2_K> : HalfBytes<Q2_K, 32> {
    static Common weights(device const block_q2_k *block, uint part, uint run, thread float *w) {
        bytes_to_floats(pairs(block->qs, part, run), w);
        const uint both = block->scales[(place(part) + DISTANCE * run) / GGUF_Q2_K_GROUP];
        return Common{half_to_float(block->d) * float(both & 15), -(half_to_float(block->dmin) * float(both >> 4))};
    }
};

template <> struct Part<Q3_K> : HalfBytes<Q3_K, 32> {
    static Common weights(device const block_q3_k *block, uint part, uint run, thread float *w) {
        const Eight thirds = bits_of_each(eight_bytes(block->hmask + part % 4 * 8), part / 4 * 2 + run, 0x01010101u);
        bytes_to_floats(with_upper_bits(pairs(block->qs, part, run), thirds, 2), w);
        const uint group = (place(part) + DISTANCE * run) / GGUF_Q3_K_GROUP;
        const float scale = half_to_float(block->d) * q3_k_scale(block->scales, group);
        return Common{scale, -4.0f * scale};
    }
};

template <> struct Part<TQ2_0> : HalfBytes<TQ2_0, 32> {
    static Common weights(device const block_tq2_0 *block, uint part, uint run, thread float *w) {
        bytes_to_floats(pairs(block->qs, part, run), w);
        const float d = half_to_float(block->d);
        return Common{d, -d};
    }
};

#endif
