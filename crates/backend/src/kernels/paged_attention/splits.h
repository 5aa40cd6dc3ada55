// How the positions that generated rows see are split, and where what comes of the splits lies.
#ifndef QUARREL_SPLITS_H
#define QUARREL_SPLITS_H

#include "cache_tiles.h"

// Positions of a split, which begins at a multiple of it: how a row's sums are taken depends on its
// position alone.
#define SPLIT 128
// Below any score, and finite: where all scores are -inf nothing must become exp(inf - inf).
#define LOWEST -3.0e38f

// With what the host knows of the model, which need not be found out, nor what it rules out be code.
FN AttentionArgs known_attention(AttentionArgs args) {
#ifdef ATTENTION_PAGE
    args.page_size = ATTENTION_PAGE, args.n_heads = ATTENTION_HEADS, args.n_kv_heads = ATTENTION_HEADS / ATTENTION_GROUP;
    args.k_dim = ATTENTION_K_DIM, args.v_dim = ATTENTION_V_DIM;
    if (!ATTENTION_WINDOWED) args.window = 0;
    if (!ATTENTION_CAPPED) args.softcap = 0;
#endif
    return args;
}

// Generated rows whose partial results fit into scratch together, and their items: a row, a split, the row's place in its
// context and its sequence; a row's splits one after another.
struct Batch {
    uint items_at, n_items, first_row, end_row;
};

// Where partial results lie in scratch, in floats: [items, n_heads, v_dim], then the maximum and the sum of
// each head [items, n_heads, 2].
struct Partials {
    float *outs, *totals;
    MEMBER Partials(const AttentionArgs &args, float *scratch) {
        outs = scratch;
        totals = scratch + ulong(args.max_items) * args.n_heads * args.v_dim;
    }
};

// Splits of a row that are as far apart as `AttentionArgs::chains` says are added up one after another, the last one first,
// before what came of these is folded: a chain's are of one block where all layers are one launch.
FN uint n_chains(const AttentionArgs &args, uint n_splits) { return min(args.chains, n_splits); }

// The maximum and the sum of two that are added up, and what the values of either are multiplied with.
struct Link {
    float most, sum, keep, weight;
    MEMBER Link(float most_, float sum_, float other_most, float other_sum) {
        most = larger(most_, other_most);
        keep = exact_exp(most_ - most), weight = exact_exp(other_most - most);
        sum = multiply_add(sum_, keep, other_sum * weight);
    }
};
FN float linked(float value, float keep, float other, float weight) { return multiply_add(value, keep, other * weight); }

// What a row sees.
struct Span {
    uint from, to;  // positions, `to` excluded
    MEMBER Span(uint from, uint to) : from(from), to(to) {}
    MEMBER Span(const AttentionArgs &args, uint to) : to(to) {
        from = args.window && to > args.window ? to - args.window : 0;
    }
    MEMBER uint n_splits() const { return (to - 1) / SPLIT + 1 - from / SPLIT; }
};

// The part of it that lies in a split, counted from the split's first position.
struct Part {
    uint from, to;
    MEMBER Part(const Span &span, uint split) {
        from = max(span.from, split * SPLIT) - split * SPLIT;
        to = min(span.to, split * SPLIT + SPLIT) - split * SPLIT;
    }
    MEMBER bool is_whole() const { return from == 0 && to == SPLIT; }
    MEMBER bool has(uint i) const { return from <= i && i < to; }
    // Whether it has any of a run's positions.
    MEMBER bool meets(uint run) const { return from < run + RUN && run < to; }
};

#endif
