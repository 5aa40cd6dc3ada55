// Routing and experts on Metal: which experts a row goes to, and a row with one of its experts.
//
// Limited by the bytes of the experts' weights, which are read again for every row that goes to them: right
// for a few generated rows, slow for prompts, whose rows are not gathered by expert. A row's bits do not
// depend on the rows beside it.
#ifndef QUARREL_MOE_ADD_H
#define QUARREL_MOE_ADD_H

#include "gated_rows.h"

// As `simd/moe.rs` has it.
struct MoeArgs {
    SimdArgs maps;
    uint n_experts;
    uint n_used;
    uint renormalise;
    uint groups;  // threadgroups of one expert
};

// The largest of the row's logits that follow (`last`, `last_expert`) in the order of choice: larger ones first,
// of equals the lower expert. What is no number is never larger; then the last expert is taken.
FN void next_expert(device const float *logits, uint n_experts, uint lane, thread float &last,
                    thread uint &last_expert, bool is_first) {
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

// One SIMD-group a row: the chosen experts, best first, and their shares.
FN void route(constant MoeArgs &args, device const float *logits, device uint *experts, device float *shares,
              uint row, uint lane) {
    logits += ulong(row) * args.n_experts;
    experts += ulong(row) * args.n_used, shares += ulong(row) * args.n_used;
    float last = 0, total = 0, most = 0;
    uint expert = 0;
    for (uint rank = 0; rank < args.n_used; rank++) {
        next_expert(logits, args.n_experts, lane, last, expert, rank == 0);
        if (rank == 0) most = last;
        const float share = exact_exp(last - most);
        total += share;
        if (lane == 0) experts[rank] = expert, shares[rank] = share;
    }
    if (!args.renormalise) {
        float all = 0;
        for (uint i = lane; i < args.n_experts; i += 32) all += exact_exp(logits[i] - most);
        total = simd_sum(all);
    }
    if (lane != 0) return;
    for (uint rank = 0; rank < args.n_used; rank++) shares[rank] /= total;
}

// A map of an expert's, whose weights follow the other experts'.
FN Map map_of(Map map, uint expert, uint row_bytes) {
    map.weight += ulong(expert) * map.cols * row_bytes;
    return map;
}

template <typename Format> FN uint row_bytes(uint cols) {
    return cols / Format::LEN * sizeof(typename Format::Block);
}

// A normalised row by gate or up of the expert of `slot`, whose results are the slot's row.
template <typename Format>
FN void expert_rows(constant MoeArgs &all, device const float *x, device const float *norm,
                    device const uint *experts, Map map, uint first_out, uint row, uint slot, uint lane) {
    constant SimdArgs &args = all.maps;
    if (first_out >= map.end) return;
    PlainX<1> rows;
    rows.norm = norm, rows.has_norm = true;
    rows.rows[0] = x + ulong(row) * args.maps.shape.cols;
    rows.squares[0] = 0;
    map = map_of(map, experts[slot], row_bytes<Format>(args.maps.shape.cols));
    map_rows<Format, 4, 1>(args, map, rows, first_out, slot, slot + 1, lane);
}

// What an expert's activation makes, with its share.
struct SharedX : GatedX<1> {
    float share;
    float factor(uint, uint, float) { return share; }
};

// Adds a row's experts, best first.
template <typename Format>
FN void add_experts(constant MoeArgs &all, device const uint *experts, device const float *shares,
                    device const float *gate, device const float *up, threadgroup float *values, Map map,
                    uint first_out, uint row, Threads t) {
    constant SimdArgs &args = all.maps;
    for (uint rank = 0; rank < all.n_used; rank++) {
        const uint slot = row * all.n_used + rank;
        SharedX x;
        x.gate = gate, x.up = up, x.values = values;
        x.cols = args.maps.shape.cols, x.gelu_tanh = args.gelu_tanh;
        x.t = t;
        x.rows[0] = slot, x.share = shares[slot];
        const Map expert = map_of(map, experts[slot], row_bytes<Format>(x.cols));
        map_rows<Format, 4, 1>(args, expert, x, first_out, row, row + 1, t.lane);
    }
}

#endif
