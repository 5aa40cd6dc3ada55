// The likeliest tokens of rows of logits, in order: the largest logits, of equals the lowest ids first. NaN and
// negative infinity are nobody's choice.
//
// A row's logits lie in chunks of 32, and its chunks in 32 spans. `maxima` finds each chunk's largest. Then one
// SIMD-group, a lane for each span, takes token by token: the first span that has the largest, its first chunk
// that has it, the first logit there. Then it draws one of them, where that is wanted. What a row gives depends on
// nothing beside it.
#ifndef QUARREL_CHOOSE_H
#define QUARREL_CHOOSE_H

#include "args.h"
#include "dialect.h"
#include "draw.h"

// Logits of a chunk.
#define CHUNK 32
// Chunks whose largest one SIMD-group finds.
#define CHUNKS_EACH 8
// Words that say what is wanted of a row.
#define WANTED_WORDS 6

// Larger for larger logits, one for both zeros, 0 for what is never chosen. Made of the bits, since comparing
// floats may take the tiniest for zeros.
FN uint rank_of(float logit) {
    const uint bits = bits_of_float(logit), magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u || bits == 0xff800000u) return 0;
    if (magnitude == 0) return 0x80000000u;
    return bits == magnitude ? bits | 0x80000000u : ~bits;
}

// A row of logits, and the ranks of what is largest in its chunks and was not taken.
struct Chunks {
    DEVICE const float *logits;
    DEVICE uint *maxima;
    uint cols;
    uint n_chunks;
    uint span;  // chunks of one

    MEMBER uint rank(uint id) const { return id < cols ? rank_of(logits[id]) : 0; }

    // The largest of a span.
    MEMBER uint largest(uint of, uint lane) const {
        uint best = 0;
        for (uint i = lane; i < span && of * span + i < n_chunks; i += 32) best = max(best, maxima[of * span + i]);
        return simd_max(best);
    }

    // A span's first chunk whose largest is `wanted`.
    MEMBER uint first_with(uint wanted, uint of, uint lane) const {
        uint first = NO_TOKEN;
        for (uint i = lane; i < span && of * span + i < n_chunks; i += 32) {
            if (maxima[of * span + i] == wanted) first = min(first, of * span + i);
        }
        return simd_min(first);
    }
};

FN Chunks chunks_of(CONSTANT ChooseArgs &args, DEVICE const float *logits, DEVICE uint *maxima, uint row) {
    Chunks chunks = {logits + ulong(row) * args.cols, maxima + ulong(row) * args.n_chunks, args.cols, args.n_chunks,
                     args.span};
    return chunks;
}

// Where it stands what is wanted of a row: how many tokens, the pair that the first goes to, then how to draw.
FN DEVICE const uint *wanted_of(CONSTANT ChooseArgs &args, DEVICE const uint *inputs, uint row) {
    return inputs + args.wanted_at + WANTED_WORDS * row;
}

// How many tokens of a row are wanted.
FN uint n_wanted(CONSTANT ChooseArgs &args, DEVICE const uint *inputs, uint row) {
    return row < inputs[args.n_rows_at] ? wanted_of(args, inputs, row)[0] : 0;
}

FN void chunk_maxima(CONSTANT ChooseArgs &args, DEVICE const uint *inputs, DEVICE const float *logits,
                     DEVICE uint *maxima, uint group_x, uint row, Threads t) {
    if (n_wanted(args, inputs, row) == 0) return;
    const Chunks chunks = chunks_of(args, logits, maxima, row);
    const uint first = (group_x * (t.count / 32) + t.simdgroup) * CHUNKS_EACH;
    uint own = 0;
    UNROLL
    for (uint i = 0; i < CHUNKS_EACH; i++) {
        const uint largest = simd_max(chunks.rank((first + i) * CHUNK + t.lane));
        if (t.lane == i) own = largest;
    }
    if (t.lane < CHUNKS_EACH && first + t.lane < args.n_chunks) chunks.maxima[first + t.lane] = own;
}

// Takes `n` tokens of a row, by one SIMD-group; `own` is the largest of the lane's span.
FN void take_tokens(Chunks chunks, uint own, uint n, DEVICE uint *pairs, uint lane) {
    uint last = 0xffffffffu, last_id = 0;
    for (uint i = 0; i < n; i++) {
        const uint rank = simd_max(own);
        uint id = NO_TOKEN;
        if (rank != 0) {
            const uint span = simd_min(own == rank ? lane : 32u);
            const uint chunk = chunks.first_with(rank, span, lane);
            const uint at = chunk * CHUNK + lane, here = chunks.rank(at);
            // All that come before the last one taken were taken before it.
            const bool is_left = here < last || (here == last && at > last_id);
            id = simd_min(is_left && here == rank ? at : NO_TOKEN);
            const uint next = simd_max(is_left && at != id ? here : 0u);
            if (lane == 0) chunks.maxima[chunk] = next;
            simd_barrier();
            const uint behind = chunks.largest(span, lane);
            if (lane == span) own = behind;
            last = rank, last_id = id;
        }
        if (lane == 0) {
            pairs[2 * i] = id;
            pairs[2 * i + 1] = id == NO_TOKEN ? 0xff800000u : bits_of_float(chunks.logits[id]);
        }
    }
}

FN void choose_row(CONSTANT ChooseArgs &args, DEVICE const uint *inputs, DEVICE const float *logits,
                   DEVICE uint *maxima, DEVICE uint *chosen, THREADGROUP uint *largest, uint row, Threads t) {
    const uint n = n_wanted(args, inputs, row);
    if (n == 0) return;
    const Chunks chunks = chunks_of(args, logits, maxima, row);
    const uint own = chunks.largest(t.simdgroup, t.lane);
    if (t.lane == 0) largest[t.simdgroup] = own;
    group_barrier();
    if (t.simdgroup != 0) return;
    DEVICE const uint *wanted = wanted_of(args, inputs, row);
    DEVICE uint *pairs = chosen + args.pairs_at + 2 * wanted[1];
    take_tokens(chunks, largest[t.lane], n, pairs, t.lane);
    simd_barrier();
    const Draw draw = {float_of_bits(wanted[2]), wanted[3], wanted[4], wanted[5]};
    const uint at = n == 1 ? 0 : draw_token(draw, pairs, n, t.lane);
    if (t.lane == 0) chosen[row] = pairs[2 * at];
}

// Ids that the step before chose, to the rows that were waiting for them; one thread each.
FN void carry_id(CONSTANT CarryArgs &args, DEVICE uint *inputs, DEVICE const uint *chosen, uint i) {
    if (i >= inputs[args.n_carried_at]) return;
    DEVICE const uint *pair = inputs + args.carried_at + 2 * i;
    // A row without any number has no token: its request ends, and what is computed of any other is thrown away.
    const uint id = chosen[pair[1]];
    inputs[args.ids_at + pair[0]] = id == NO_TOKEN ? 0 : id;
}

#endif
