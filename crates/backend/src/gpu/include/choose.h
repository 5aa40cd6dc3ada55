// The likeliest token of a row of logits, by one threadgroup.
#ifndef QUARREL_CHOOSE_H
#define QUARREL_CHOOSE_H

#include "args.h"
#include "dialect.h"

// Says that no logit is a number above negative infinity.
#define NO_TOKEN 0xffffffffu

// The largest of two, of equals the first; NaN and negative infinity are nobody's choice.
struct Best {
    float logit;
    uint id;
    MEMBER void take(float other, uint other_id) {
        if (other > logit || (other == logit && other_id < id)) logit = other, id = other_id;
    }
};

FN void choose_row(CONSTANT ChooseArgs &args, DEVICE const uint *inputs, DEVICE const float *logits,
                   DEVICE uint *chosen, THREADGROUP float *best_logits, THREADGROUP uint *best_ids, uint row,
                   Threads t) {
    if (row >= inputs[args.n_rows_at]) return;
    logits += ulong(row) * args.cols;
    // The lowest there is, and no place: a first logit wins over it unless it is negative infinity.
    Best best = {float_of_bits(0xff800000u), NO_TOKEN};
    for (uint i = t.index; i < args.cols; i += t.count) {
        if (logits[i] > best.logit) best.logit = logits[i], best.id = i;
    }
    best_logits[t.index] = best.logit, best_ids[t.index] = best.id;
    for (uint n = t.count / 2; n > 0; n /= 2) {
        group_barrier();
        if (t.index < n) {
            Best mine = {best_logits[t.index], best_ids[t.index]};
            mine.take(best_logits[t.index + n], best_ids[t.index + n]);
            best_logits[t.index] = mine.logit, best_ids[t.index] = mine.id;
        }
    }
    if (t.index == 0) chosen[row] = best_ids[0];
}

// Ids that the step before chose, to the rows that were waiting for them; one thread each.
FN void carry_id(CONSTANT CarryArgs &args, DEVICE uint *inputs, DEVICE const uint *chosen, uint i) {
    if (i >= inputs[args.n_carried_at]) return;
    DEVICE const uint *pair = inputs + args.carried_at + 2 * i;
    inputs[args.ids_at + pair[0]] = chosen[pair[1]];
}

#endif
