// Attention of a step's row over the splits that are a block's: four SIMD-groups find shares, four others add up values by
// them, and each team asks for what it takes next as soon as it has done with what it had.
#ifndef QUARREL_STEP_SPLITS_H
#define QUARREL_STEP_SPLITS_H

#include "step_row.h"

#if __CUDA_ARCH__ >= 900

// The splits of a block, all of one head, its last one first: the newest key and value are in the last of all.
struct BlockSplits {
    MEMBER uint n() const { return known().n_splits; }
    // The `i`th, counted from the first that the row sees, and from that of the context; what of it the row sees.
    MEMBER uint split(uint i) const { return known().last - i * known().apart; }
    MEMBER uint in_context(uint i) const { return known().from / SPLIT + split(i); }
    MEMBER Part part(uint i) const { return Part(Span(known().from, known().to), in_context(i)); }
    MEMBER bool is_last(uint i) const { return !STEP_SEVERAL || i + 1 == n(); }
    MEMBER bool has_newest() const { return n() > 0 && known().last + 1 == known().all_splits; }
    // Where keys and values go.
    MEMBER Heads tiles() const { return Heads(Handover::rows() + known().tiles_at); }
    // Begins to copy keys or values of the `i`th.
    template <typename Tile> MEMBER void copy(uchar *tile, const uchar *cache, uint i) const {
        tiles().copy<Tile>(tile, cache, Handover::runs()[i].vectors + threadIdx.x / 32 % DECODE_WARPS * WARP_RUNS);
    }
};

// What comes of splits, on its way to who folds them. Dimensions of a head that are folded together are a tile of the map behind.
enum { FOLD_DIMS = 64, FOLDS = Heads::VALUES / FOLD_DIMS };
struct SplitSums {
    ulong *sums, *totals;
    uint max_splits, number;
    // What is folded together, of all splits.
    MEMBER ulong *sums_of(uint nth) const { return sums + nth * max_splits * FOLD_DIMS; }
    MEMBER ulong *totals_of(uint head) const { return totals + 2 * head * max_splits; }
    MEMBER void send_sum(uint head, uint split, uint dim, float sum) const {
        send(sums_of(head * FOLDS + dim / FOLD_DIMS) + split * FOLD_DIMS + dim % FOLD_DIMS, sum, number);
    }
    MEMBER void send_total(uint head, uint split, float maximum, float sum) const {
        send(totals_of(head) + 2 * split, maximum, number);
        send(totals_of(head) + 2 * split + 1, sum, number);
    }
};

// One team of SIMD-groups has left shares, or the other has no more use for them.
enum { SHARES_ARE_THERE = 8, SHARES_ARE_READ = 9, BOTH_TEAMS = 2 * DECODE_THREADS };

// Leaves the shares of each split of this block, whose first keys are there.
FN void find_shares(const uchar *k_cache, float scale, float softcap) {
    const BlockSplits splits;
    for (uint i = 0;; i++) {
        // Found anew: addresses would be kept from one to the next, for which there are no registers.
        const Heads decode = splits.tiles();
        const auto query = [&](uint n, uint i) { return decode.query((const float *)Handover::rows(), n, i); };
        const bool is_last = splits.is_last(i);
        if (i > 0) wait_for_copies<0>();
        float scores[Heads::N_TILES][2][4];
        decode.score(scores, query, scale, softcap, splits.part(i));
        __syncwarp();
        if (!is_last) splits.copy<Heads::KTile>(decode.k_tile, k_cache, i + 1);
        if (i > 0) meet<true, BOTH_TEAMS>(SHARES_ARE_READ);
        decode.find_maxima(scores);
        decode.barrier();
        decode.share(scores);
        meet<false, BOTH_TEAMS>(SHARES_ARE_THERE);
        if (is_last) return;
    }
}

// Adds up each split's values by its shares, and sends the sums.
FN void weigh(const uchar *v_cache, const SplitSums to) {
    const BlockSplits splits;
    for (uint i = 0;; i++) {
        // Found anew: addresses would be kept from one to the next, for which there are no registers.
        const Heads decode = splits.tiles();
        const bool is_last = splits.is_last(i);
        const uint split = splits.split(i), first = known().kv_head * Heads::HEADS, head = threadIdx.x % DECODE_THREADS;
        if (i > 0) wait_for_copies<0>();
        // Another lane may have copied what this one clears.
        __syncwarp();
        decode.clear_unseen(splits.part(i));
        meet<true, BOTH_TEAMS>(SHARES_ARE_THERE);
        if (head < Heads::HEADS) to.send_total(first + head, split, decode.maximum(head), decode.sum(head));
        float sums[Heads::WARP_M_TILES][Heads::N_TILES][4];
        decode.weigh(sums, splits.part(i));
        if (!is_last) {
            meet<false, BOTH_TEAMS>(SHARES_ARE_READ);
            decode.barrier();
            splits.copy<Heads::VTile>(decode.v_tile, v_cache, i + 1);
        }
        decode.store(sums, known().all_splits == 1, [&](uint head, uint dim, float sum) { to.send_sum(first + head, split, dim, sum); });
        if (is_last) return;
    }
}

#endif
#endif
