// Routing and experts on Metal: which experts a row goes to, and a row with one of its experts.
//
// Limited by the bytes of the experts' weights, which are read again for every row that goes to them: right
// for a few generated rows, slow for prompts, whose rows are not gathered by expert. A row's bits do not
// depend on the rows beside it.
#ifndef QUARREL_MOE_ADD_H
#define QUARREL_MOE_ADD_H

#include "choose_experts.h"
#include "gated_rows.h"

// As `simd/moe.rs` has it.
struct MoeArgs {
    SimdArgs maps;
    uint n_experts;
    uint n_used;
    uint renormalise;
    uint groups;  // threadgroups of one expert
};

// The chosen experts of a row, and their shares.
FN void route(constant MoeArgs &args, device const float *logits, device uint *experts, device float *shares,
              uint row, uint lane) {
    const ulong first = ulong(row) * args.n_used;
    choose_experts(args.n_experts, args.n_used, args.renormalise != 0, logits + ulong(row) * args.n_experts,
                   experts + first, shares + first, lane);
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
