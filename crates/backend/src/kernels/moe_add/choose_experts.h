// Which experts a row goes to; a SIMD-group a row.
#ifndef QUARREL_CHOOSE_EXPERTS_H
#define QUARREL_CHOOSE_EXPERTS_H

#include "dialect.h"

// The largest of the row's logits that follow (`last`, `last_expert`) in the order of choice: larger ones first,
// of equals the lower expert. What is no number is never larger; then the last expert is taken.
FN void next_expert(DEVICE const float *logits, uint n_experts, uint lane, THREAD float &last,
                    THREAD uint &last_expert, bool is_first) {
    float best = float_of_bits(0xff800000u);
    uint best_expert = n_experts - 1;
    for (uint i = lane; i < n_experts; i += 32) {
        const bool follows = is_first || logits[i] < last || (logits[i] == last && i > last_expert);
        if (follows && logits[i] > best) best = logits[i], best_expert = i;
    }
    const float most = simd_max(best);
    // Experts are few enough for floats.
    const float lowest = -simd_max(best == most ? -float(best_expert) : -float(n_experts - 1));
    last = most, last_expert = uint(lowest);
}

// The chosen experts, best first, and their shares.
FN void choose_experts(uint n_experts, uint n_used, bool renormalise, DEVICE const float *logits,
                       DEVICE uint *experts, DEVICE float *shares, uint lane) {
    float last = 0, total = 0, most = 0;
    uint expert = 0;
    for (uint rank = 0; rank < n_used; rank++) {
        next_expert(logits, n_experts, lane, last, expert, rank == 0);
        if (rank == 0) most = last;
        const float share = exact_exp(last - most);
        total += share;
        if (lane == 0) experts[rank] = expert, shares[rank] = share;
    }
    if (!renormalise) {
        float all = 0;
        for (uint i = lane; i < n_experts; i += 32) all += exact_exp(logits[i] - most);
        total = simd_sum(all);
    }
    if (lane != 0) return;
    for (uint rank = 0; rank < n_used; rank++) shares[rank] /= total;
}

#endif
