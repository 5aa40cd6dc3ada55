// Attention of a step's row over the splits that are a block's: a team of SIMD-groups finds shares, another adds up values by
// them, and each team asks for what it takes next as soon as it has done with what it had. Where there is room for keys and
// values of two splits, two pairs of teams take chains of splits in turn: one waits while the other computes.
#ifndef QUARREL_STEP_SPLITS_H
#define QUARREL_STEP_SPLITS_H

#include "step_row.h"

#if __CUDA_ARCH__ >= 900

// One team of a pair has left shares, or the other has no more use for them: barriers of the first pair.
enum { SHARES_ARE_THERE = 10, SHARES_ARE_READ = 12, BOTH_TEAMS = 2 * Heads::THREADS };

// A split, counted from the first that the row sees, and which of a block's chains it is of, the last split's counted first.
struct Place {
    uint chain, split;
};

// The splits of a block, all of one head, of each chain the last one first: the newest key and value are in the last of all.
struct BlockSplits {
    enum { APART = STEP_SHARING * STEP_CHAINS };
    MEMBER uint n() const { return known().n_splits; }
    // Of these, chains that have any.
    MEMBER uint n_chains() const { return min(uint(STEP_CHAINS), n()); }
    // Of the context; what of it the row sees.
    MEMBER uint in_context(uint split) const { return known().from / SPLIT + split; }
    MEMBER Part part(uint split) const { return Part(Span(known().from, known().to), in_context(split)); }
    static MEMBER uint pair() { return STEP_TEAM_PAIRS > 1 ? threadIdx.x / BOTH_TEAMS : 0; }
    // Whether this thread's pair, if there is one, has any.
    MEMBER bool is_busy() const { return threadIdx.x / BOTH_TEAMS < min(uint(STEP_TEAM_PAIRS), n_chains()); }
    MEMBER Place first() const { return {pair(), known().last - pair() * STEP_SHARING}; }
    // Whether its chain has no other behind it.
    MEMBER bool ends(Place at) const { return !STEP_SEVERAL || at.split < APART; }
    MEMBER bool exists(Place at) const { return at.chain < n_chains(); }
    // What its pair takes next, which may not exist.
    MEMBER Place next(Place at) const {
        if (!ends(at)) return {at.chain, at.split - APART};
        const uint chain = at.chain + STEP_TEAM_PAIRS;
        return {chain, known().last - chain * STEP_SHARING};
    }
    MEMBER bool has_newest() const { return n() > 0 && known().last + 1 == known().all_splits; }
    // Where keys and values of a pair go, and what comes of scores.
    MEMBER Heads tiles(uint pair) const {
        uchar *row = Handover::rows();
        return Heads(row + known().tiles_at + pair * Heads::TILE_BYTES, row + known().found_at + pair * Heads::FOUND_BYTES);
    }
    // Begins to copy keys or values.
    template <typename Tile> MEMBER void copy(uchar *tile, const uchar *cache, Place at) const {
        const uint *runs = Handover::runs()[(known().last - at.split) / STEP_SHARING].vectors;
        tiles(pair()).copy<Tile>(tile, cache, runs + threadIdx.x / 32 % Heads::WARPS * Heads::RUNS);
    }
    template <bool WAIT> static MEMBER void meet(uint barrier) { ::meet<WAIT, BOTH_TEAMS>(barrier + pair()); }
};

// What comes of chains, on its way to who folds it. Dimensions of a head that are folded together are a tile of the map behind.
enum { FOLD_DIMS = 64, FOLDS = Heads::VALUES / FOLD_DIMS };
struct SplitSums {
    ulong *sums, *totals;
    uint most, number;
    // What is folded together, of all chains.
    MEMBER ulong *sums_of(uint nth) const { return sums + nth * most * FOLD_DIMS; }
    MEMBER ulong *totals_of(uint head) const { return totals + 2 * head * most; }
    MEMBER void send_sum(uint head, uint chain, uint dim, float sum) const {
        send(sums_of(head * FOLDS + dim / FOLD_DIMS) + chain * FOLD_DIMS + dim % FOLD_DIMS, sum, number);
    }
    MEMBER void send_total(uint head, uint chain, float maximum, float sum) const {
        send(totals_of(head) + 2 * chain, maximum, number);
        send(totals_of(head) + 2 * chain + 1, sum, number);
    }
};

// What a lane has of a chain's sums.
struct Chain {
    typedef float Sums[Heads::WARP_M_TILES][Heads::N_TILES][4];
    enum { HEADS = 2 * Heads::N_TILES };
    // Maxima and sums of shares.
    struct Totals {
        float most[HEADS], sum[HEADS];
        MEMBER void load(const Heads &decode) {
            UNROLL
            for (uint i = 0; i < HEADS; i++) most[i] = decode.maximum(decode.head_of(i)), sum[i] = decode.sum(decode.head_of(i));
        }
    };
    Totals totals;
    Sums values;

    // Adds what a split has.
    MEMBER void add(const Totals &other, const Sums &own, bool is_first) {
        UNROLL
        for (uint i = 0; i < HEADS; i++) {
            const Link link(totals.most[i], totals.sum[i], other.most[i], other.sum[i]);
            totals.most[i] = is_first ? other.most[i] : link.most, totals.sum[i] = is_first ? other.sum[i] : link.sum;
            UNROLL
            for (uint at = 0; at < 2 * Heads::WARP_M_TILES; at++) {
                const uint element = i % 2 + at % 2 * 2;
                float &value = values[at / 2][i / 2][element];
                const float x = own[at / 2][i / 2][element];
                value = is_first ? x : linked(value, link.keep, x, link.weight);
            }
        }
    }
    MEMBER void send(const Heads &decode, const SplitSums &to, uint chain) const {
        const uint first = known().kv_head * Heads::HEADS;
        decode.put_all(values, [&](uint head, uint dim, float sum) { to.send_sum(first + head, chain, dim, sum); });
        if (decode.warp > 0 || decode.lane >= 2) return;
        UNROLL
        for (uint i = 0; i < HEADS; i++) {
            if (decode.head_of(i) < Heads::HEADS) to.send_total(first + decode.head_of(i), chain, totals.most[i], totals.sum[i]);
        }
    }
};

// Leaves the shares of each of a pair's splits, of which the first keys are there.
FN void find_shares(const uchar *k_cache, float scale, float softcap) {
    const BlockSplits splits;
    Place at = splits.first();
    const auto load = [&](Heads::Operand &b, uint n) {
        const Heads decode = splits.tiles(splits.pair());
        decode.load_queries(b, scale, [&](uint i) { return decode.query((const float *)Handover::rows(), n, i); });
    };
    // The queries are the same for all splits: they are kept where a lane has registers for them.
    constexpr bool keeps = Heads::ASKS_AHEAD && STEP_SEVERAL;
    Heads::Operand kept[keeps ? Heads::N_TILES : 1];
    for (uint n = 0; keeps && n < Heads::N_TILES; n++) load(kept[n], n);
    const auto operand = [&](Heads::Operand &b, uint n) {
        if (!keeps) return load(b, n);
        UNROLL
        for (uint i = 0; i < 2 * Heads::K_STEPS; i++) b[i / 2][i % 2] = kept[n][i / 2][i % 2];
    };
    for (bool is_first = true;; is_first = false) {
        // Found anew: addresses would be kept from one to the next, for which there are no registers.
        const Heads decode = splits.tiles(splits.pair());
        const Place next = splits.next(at);
        const bool is_last = !STEP_SEVERAL || !splits.exists(next);
        if (!is_first) wait_for_copies<0>();
        Heads::Scores scores;
        decode.score(scores, operand, softcap, splits.part(at.split));
        __syncwarp();
        if (!is_last) splits.copy<Heads::KTile>(decode.k_tile, k_cache, next);
        if (!is_first) splits.meet<true>(SHARES_ARE_READ);
        decode.find_maxima(scores);
        decode.barrier();
        decode.share(scores);
        splits.meet<false>(SHARES_ARE_THERE);
        if (is_last) return;
        at = next;
    }
}

// Adds up each split's values by its shares and chains one after another, whose sums it sends.
FN void weigh(const uchar *v_cache, const SplitSums to) {
    const BlockSplits splits;
    Place at = splits.first();
    Chain chain;
    for (bool is_first = true, begins = true;; is_first = false) {
        // Found anew: addresses would be kept from one to the next, for which there are no registers.
        const Heads decode = splits.tiles(splits.pair());
        const Place next = splits.next(at);
        const bool is_last = !STEP_SEVERAL || !splits.exists(next);
        if (!is_first) wait_for_copies<0>();
        // Another lane may have copied what this one clears.
        __syncwarp();
        decode.clear_unseen(splits.part(at.split));
        splits.meet<true>(SHARES_ARE_THERE);
        float sums[Heads::WARP_M_TILES][Heads::N_TILES][4];
        decode.weigh(sums, splits.part(at.split));
        Chain::Totals totals;
        totals.load(decode);
        if (!is_last) {
            splits.meet<false>(SHARES_ARE_READ);
            decode.barrier();
            splits.copy<Heads::VTile>(decode.v_tile, v_cache, next);
        }
        decode.finish(sums, known().all_splits == 1, [&](uint i) { return totals.sum[i]; });
        chain.add(totals, sums, begins);
        begins = splits.ends(at);
        if (begins) chain.send(decode, to, at.split);
        if (is_last) return;
        at = next;
    }
}

#endif
#endif
