// One of a row's likeliest tokens, drawn by one SIMD-group as `Draw` of draw.rs does it: in whole numbers, so that
// every device draws the same.
#ifndef QUARREL_DRAW_H
#define QUARREL_DRAW_H

#include "dialect.h"

// Says that no logit is a number above negative infinity.
#define NO_TOKEN 0xffffffffu
// The weight of the likeliest token.
#define ONE 0x1000000u
// All tokens, as a share of their weights.
#define ALL 0xffffffffu
// 2^26 log2(e)
#define SLOPE 96817624.0f
// 2^32 ln(2)
#define LN_2 2977044472u
// The most tokens a lane has: 128 in all.
#define DRAWN_EACH 4

// What is cut and how it is drawn; shares are in 2^-32.
struct Draw {
    float slope;   // 2^26 log2(e) by the temperature
    uint top_p;    // share of all weights
    uint least;    // weight that a token must have
    uint uniform;  // share of the weights that are left
};

// ONE times e to the power of -`below` SLOPE / `slope`, of which 2^-x by its series.
FN uint weight_of(float below, float slope) {
    const float scaled = below * slope;
    const uint exponent = scaled < 2147483648.0f ? uint(scaled) : 0x80000000u;
    const ulong y = (ulong(exponent & 0x3ffffffu) << 6) * LN_2 >> 32;
    const ulong one = ulong(1) << 32;
    ulong power = one;
    UNROLL
    for (uint k = 11; k > 0; k--) power = one - uint(y * power >> 32) / k;
    return uint(power >> (8 + (exponent >> 26)));
}

FN uint share_of(uint total, uint share) { return uint(ulong(total) * share >> 32); }

// A lane's weights, of tokens `lane`, `lane + 32`, ...
struct Weights {
    uint own[DRAWN_EACH];

    MEMBER uint total() const {
        uint sum = 0;
        UNROLL
        for (uint i = 0; i < DRAWN_EACH; i++) sum += own[i];
        return simd_sum(sum);
    }
};

// Weights of the first `n` tokens; of equal logits they are equal, infinite ones too.
FN Weights weights_of(DEVICE const uint *pairs, uint n, float slope, uint lane) {
    const float largest = float_of_bits(pairs[1]);
    Weights weights;
    UNROLL
    for (uint i = 0; i < DRAWN_EACH; i++) {
        const uint token = 32 * i + lane;
        weights.own[i] = 0;
        if (token < n && pairs[2 * token] != NO_TOKEN) {
            const float logit = float_of_bits(pairs[2 * token + 1]);
            weights.own[i] = logit == largest ? ONE : weight_of(largest - logit, slope);
        }
    }
    return weights;
}

// How many of the likeliest tokens are kept: those before which less than `top_p` of all stands, as long as they
// weigh enough themselves.
FN uint n_kept(Draw draw, DEVICE const uint *pairs, uint n, uint lane) {
    const Weights weights = weights_of(pairs, n, SLOPE, lane);
    const uint mass = share_of(weights.total(), draw.top_p);
    uint before = 0, kept = 0;
    UNROLL
    for (uint i = 0; i < DRAWN_EACH; i++) {
        const uint own = weights.own[i], first = 32 * i + lane;
        const uint all = simd_prefix_inclusive_sum(own);
        const bool is_in = first < n && own >= draw.least && (draw.top_p == ALL || before + all - own < mass);
        kept += simd_sum(is_in || first == 0 ? 1u : 0u);
        before += simd_sum(own);
    }
    return kept;
}

// Which token is drawn: the first that ends behind `uniform` of the weights of those that are kept. The first one
// where no token is there.
FN uint draw_token(Draw draw, DEVICE const uint *pairs, uint n, uint lane) {
    if (pairs[0] == NO_TOKEN) return 0;
    const uint kept = n_kept(draw, pairs, n, lane);
    const Weights weights = weights_of(pairs, kept, draw.slope, lane);
    const uint drawn = share_of(weights.total(), draw.uniform);
    uint before = 0, at = 0;
    UNROLL
    for (uint i = 0; i < DRAWN_EACH; i++) {
        const uint end = before + simd_prefix_inclusive_sum(weights.own[i]);
        at += simd_sum(32 * i + lane < kept && end <= drawn ? 1u : 0u);
        before += simd_sum(weights.own[i]);
    }
    return at;
}

#endif
