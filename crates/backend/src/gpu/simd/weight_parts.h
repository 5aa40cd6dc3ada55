// Weights as a lane reads them: sixteen of a block, as two runs of eight.
//
// `Part<Format>::place` is where a part's first run begins in its block, the second
// begins DISTANCE behind it. `weights` gives a run's values without what they have in
// common: the weight is `scale * w + offset`. Quants stay packed in words, four to
// each, for as long as possible.
#ifndef QUARREL_WEIGHT_PARTS_H
#define QUARREL_WEIGHT_PARTS_H

#include "formats.h"

// Eight bytes at an even address.
struct Eight {
    uint words[2];
};

FN Eight eight_bytes(device const uchar *bytes) {
    const packed_ushort4 pairs = *(device const packed_ushort4 *)bytes;
    return Eight{{uint(pairs[0]) | uint(pairs[1]) << 16, uint(pairs[2]) | uint(pairs[3]) << 16}};
}

// The bytes of four words' lanes as floats.
FN void bytes_to_floats(Eight bytes, thread float *w) {
    UNROLL
    for (uint i = 0; i < 8; i++) w[i] = float((bytes.words[i / 4] >> (8 * (i % 4))) & 255);
}

// The bits of each of eight bytes that stand at `shift` and that `mask` has in each.
FN Eight bits_of_each(Eight bytes, uint shift, uint mask) {
    return Eight{{(bytes.words[0] >> shift) & mask, (bytes.words[1] >> shift) & mask}};
}

// Half of each of eight bytes: the low one of run 0, the high one of run 1.
FN Eight halves(device const uchar *quants, uint part, uint run) {
    return bits_of_each(eight_bytes(quants + 8 * part), 4 * run, 0x0f0f0f0fu);
}

// Eight quants with the bits behind their own WIDTH.
FN Eight with_upper_bits(Eight quants, Eight upper, uint width) {
    return Eight{{quants.words[0] | upper.words[0] << width, quants.words[1] | upper.words[1] << width}};
}

// Adds the fifth bits of eight quants, which are those of one byte. The product has bit `i` of a half at `8 * i`.
FN Eight with_fifth_bits(Eight quants, uint bits) {
    const uint low = ((bits & 15) * 0x00204081u) & 0x01010101u, high = ((bits >> 4) * 0x00204081u) & 0x01010101u;
    return Eight{{quants.words[0] | low << 4, quants.words[1] | high << 4}};
}

// What a run's weights have in common.
struct Common {
    float scale;
    float offset;
};

// Bytes hold two elements, GAP apart; GAP bytes follow each other before the elements go on.
template <typename Format, uint GAP> struct HalfBytes {
    enum { LEN = Format::LEN, PARTS = LEN / 16, DISTANCE = GAP, SCALED = 1 };
    static uint place(uint part) { return 8 * part / GAP * (2 * GAP) + 8 * part % GAP; }
};

template <typename Format> struct Part;

template <> struct Part<Q4_0> : HalfBytes<Q4_0, 16> {
    static Common weights(device const block_q4_0 *block, uint part, uint run, thread float *w) {
        const float d = half_to_float(block->d);
        bytes_to_floats(halves(block->qs, part, run), w);
        return Common{d, -8.0f * d};
    }
};

template <> struct Part<Q4_1> : HalfBytes<Q4_1, 16> {
    static Common weights(device const block_q4_1 *block, uint part, uint run, thread float *w) {
        bytes_to_floats(halves(block->qs, part, run), w);
        return Common{half_to_float(block->d), half_to_float(block->m)};
    }
};

template <> struct Part<Q5_0> : HalfBytes<Q5_0, 16> {
    static Common weights(device const block_q5_0 *block, uint part, uint run, thread float *w) {
        const float d = half_to_float(block->d);
        bytes_to_floats(with_fifth_bits(halves(block->qs, part, run), block->qh[2 * run + part]), w);
        return Common{d, -16.0f * d};
    }
};

template <> struct Part<Q5_1> : HalfBytes<Q5_1, 16> {
    static Common weights(device const block_q5_1 *block, uint part, uint run, thread float *w) {
        bytes_to_floats(with_fifth_bits(halves(block->qs, part, run), block->qh[2 * run + part]), w);
        return Common{half_to_float(block->d), half_to_float(block->m)};
    }
};

// Signed bytes, shifted to be unsigned.
template <> struct Part<Q8_0> : HalfBytes<Q8_0, 16> {
    static Common weights(device const block_q8_0 *block, uint part, uint run, thread float *w) {
        const float d = half_to_float(block->d);
        const Eight quants = eight_bytes((device const uchar *)block->qs + 16 * run + 8 * part);
        bytes_to_floats(Eight{{quants.words[0] ^ 0x80808080u, quants.words[1] ^ 0x80808080u}}, w);
        return Common{d, -128.0f * d};
    }
};

// A group's scale and minimum, both in six bits, times the block's.
FN Common common_of_group(float d, float dmin, device const uchar *packed, uint group) {
    uint scale, minimum;
    scale_and_minimum(packed, group, scale, minimum);
    return Common{d * float(scale), -(dmin * float(minimum))};
}

template <> struct Part<Q4_K> : HalfBytes<Q4_K, 32> {
    static Common weights(device const block_q4_k *block, uint part, uint run, thread float *w) {
        bytes_to_floats(halves(block->qs, part, run), w);
        const uint group = part / 4 * 2 + run;
        return common_of_group(half_to_float(block->d), half_to_float(block->dmin), block->scales, group);
    }
};

template <> struct Part<Q5_K> : HalfBytes<Q5_K, 32> {
    static Common weights(device const block_q5_k *block, uint part, uint run, thread float *w) {
        const uint group = part / 4 * 2 + run;
        const Eight low = halves(block->qs, part, run);
        const Eight upper = bits_of_each(eight_bytes(block->qh + part % 4 * 8), group, 0x01010101u);
        bytes_to_floats(with_upper_bits(low, upper, 4), w);
        return common_of_group(half_to_float(block->d), half_to_float(block->dmin), block->scales, group);
    }
};

template <> struct Part<Q6_K> : HalfBytes<Q6_K, 64> {
    static Common weights(device const block_q6_k *block, uint part, uint run, thread float *w) {
        // 128 elements are four quarters; the runs are of a quarter and the next but one.
        const uint upper = part / 8, quarter = part / 4 % 2 + 2 * run;
        const Eight low = halves(block->ql, part, run);
        const Eight bytes = eight_bytes(block->qh + upper * 32 + part % 4 * 8);
        bytes_to_floats(with_upper_bits(low, bits_of_each(bytes, 2 * quarter, 0x03030303u), 4), w);
        const float scale = half_to_float(block->d) * float(block->scales[(place(part) + 64 * run) / 16]);
        return Common{scale, -32.0f * scale};
    }
};

// Plain floats, of which a row need not have a multiple of sixteen.
struct PlainPart {
    enum { LEN = 16, PARTS = 1, DISTANCE = 8, SCALED = 0 };
    static uint place(uint part) { return 16 * part; }
};

template <> struct Part<F32> : PlainPart {
    static Common weights(device const float *row, uint, uint run, thread float *w) {
        device const packed_float4 *fours = (device const packed_float4 *)(row + 8 * run);
        const packed_float4 a = fours[0], b = fours[1];
        UNROLL
        for (uint i = 0; i < 4; i++) w[i] = a[i], w[i + 4] = b[i];
        return Common{1, 0};
    }
    static float one(device const float *element) { return *element; }
};

template <> struct Part<F16> : PlainPart {
    static Common weights(device const block_f16 *row, uint, uint run, thread float *w) {
        device const packed_ushort4 *fours = (device const packed_ushort4 *)(row + 8 * run);
        const packed_ushort4 a = fours[0], b = fours[1];
        UNROLL
        for (uint i = 0; i < 4; i++) w[i] = half_to_float(a[i]), w[i + 4] = half_to_float(b[i]);
        return Common{1, 0};
    }
    static float one(device const block_f16 *element) { return half_to_float(element->bits); }
};

template <> struct Part<BF16> : PlainPart {
    static Common weights(device const block_bf16 *row, uint, uint run, thread float *w) {
        device const packed_ushort4 *fours = (device const packed_ushort4 *)(row + 8 * run);
        const packed_ushort4 a = fours[0], b = fours[1];
        UNROLL
        for (uint i = 0; i < 4; i++) w[i] = bfloat_to_float(a[i]), w[i + 4] = bfloat_to_float(b[i]);
        return Common{1, 0};
    }
    static float one(device const block_bf16 *element) { return bfloat_to_float(element->bits); }
};

// The other families.
#include "pair_parts.h"
#include "table_parts.h"

#endif
