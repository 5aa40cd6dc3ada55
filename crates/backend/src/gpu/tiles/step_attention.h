// What a block of step.h reads of others' results, and attention: splits of a key/value head
// each block's, and the fold of 64 dimensions of a head's splits another's.
#ifndef QUARREL_STEP_ATTENTION_H
#define QUARREL_STEP_ATTENTION_H

#include "step_splits.h"

#if __CUDA_ARCH__ >= 900

// How many pieces of weights and how many bands a computing SIMD-group has done.
struct Computing {
    uint piece, band;
};

// Reads a row that others converted.
FN void fetch_words(const ulong *mail, uint number, uint n) {
    block_barrier();
    receive_words((uint *)Handover::rows(), mail, n, number);
    block_barrier();
}

// Reads what gate and up left: words as `down` takes them, and floats behind them.
FN void fetch_hidden(const StepArgs &args, const Mail &mail) {
    typedef DownMap::Rows Rows;
    const uint first = results_of(args.gated) == QUANTISED ? 16 * StepGated::first_single(args) : args.gated.cols;
    uchar *rows = Handover::rows();
    const uint words = first / 64 * Mail::DOWN_WORDS, floats = args.gated.cols - first;
    // As of a row, one thread waits before all read: here for one of the last letters.
    if (threadIdx.x == 0) TwoLetters().receive(floats > 0 ? mail.singles() + floats - 2 : mail.hidden() + words - 2, mail.number);
    block_barrier();
    receive_words((uint *)rows, mail.hidden(), words, mail.number);
    for (uint o = first + 4 * threadIdx.x; o < args.gated.cols; o += 4 * n_threads()) {
        Rows::put(rows + o / 64 * Rows::SHARED_BYTES, o, receive_four(mail.singles() + o - first, mail.number));
    }
    block_barrier();
}

// Adds a band's tiles that are this SIMD-group's.
template <typename F> FN void add_band(typename F::Acc &acc, const StepRing &ring, uint &piece, uint n_tiles, uint lane) {
    const Columns part(n_tiles, F::TOGETHER);
    const uchar *rows = Handover::rows() + part.first * F::Rows::SHARED_BYTES;
    for (uint tile = 0; tile < part.n; tile += F::CHUNK) {
        const uchar *slot = ring.wait(piece);
        add_some<F, true>(acc, slot, rows + tile * F::Rows::SHARED_BYTES, part.n - tile, lane);
        ring.done(piece++);
    }
}
// The same of a band that may not be there, and leaves the sums.
template <typename F> FN void leave_band_of(const StepRing &ring, Handover &handover, uint &piece, uint n_tiles, uint lane) {
    typename F::Acc acc = {};
    add_band<F>(acc, ring, piece, n_tiles, lane);
    handover.wait_for_room();
    F::leave(handover.set() + threadIdx.x / 32 * F::SUMS, acc);
    handover.left();
}

// Multiplies a stage's bands, of which this team has `own` and the first one `n`, not fewer. `others` has a bit for each
// that is packed in the other way.
template <typename M>
__noinline__ __device__ Computing compute(Computing done, uint n_tiles, uint n, uint own, uint others) {
    typedef typename M::First F;
    const uint lane = threadIdx.x % 32;
    const StepRing ring(threadIdx.x / 32);
    Handover handover(done.band);
    uint piece = done.piece;
    for (uint nth = 0; nth < n; nth++) {
        const uint wanted = nth < own ? n_tiles : 0;
        if (M::MIXED && others >> nth & 1) leave_band_of<typename M::Other>(ring, handover, piece, wanted, lane);
        else leave_band_of<F>(ring, handover, piece, wanted, lane);
    }
    return {piece, handover.n};
}
// Those of a layer's stage.
template <typename M, bool IN_PAIRS> FN Computing compute(Computing done, const StepMap<M, IN_PAIRS> &map, uint stage) {
    const uint *bands = known().bands[stage];
    return compute<M>(done, map.args.shape.n_tiles, bands[0], bands[team()], map.other_bands(team()));
}

// A query head goes where it is.
struct TurnedHead {
    float *x;
    MEMBER void store(uint i, float value) const { x[i] = value; }
};

// Where a key or value goes: to the cache, and to where attention reads it.
struct KeptHead {
    float *x;  // null for what goes there directly
    uchar *cache, *tile;
    uint format;
    MEMBER void store(uint i, float value) const {
        if (x) {
            x[i] = value;
            return;
        }
        store_kv(format, cache, i, value);
        store_kv(format, tile, i, value);
    }
    // What needs 32 elements for a scale, which are in `from`.
    MEMBER void store_groups(const float *from, uint dim, uint lane) const {
        store_q8_0(cache, from, dim, lane);
        store_q8_0(tile, from, dim, lane);
    }
};

// Attention of the step's row, by one pair of teams of SIMD-groups or two: one team finds the shares of a split's values and
// the other adds these up, so that the next keys are on their way while values are waited for, and the other way round.
struct StepAttention {
    const StepArgs &args;
    const StepMemory &memory;
    const BlockSplits splits;
    const uint lane, warp;

    MEMBER StepAttention(const StepArgs &args, const StepMemory &memory)
        : args(args), memory(memory), splits(), lane(threadIdx.x % 32), warp(threadIdx.x / 32) {
        find_runs();
        know_turns(Handover::turns(), turns_of(args.rope, memory.inputs, memory.inv_freq, 0), args.rope.n_pairs);
    }

    MEMBER AttentionArgs attention() const { return known_attention(args.attention); }

    // By one thread, before all begin.
    static MEMBER void find(const StepArgs &args, const StepMemory &memory) {
        const AttentionArgs attention = known_attention(args.attention);
        const Span span(attention, memory.inputs[attention.places_at] + 1);
        // The last blocks have the fewest bands, and so they are the first to have splits: keys and values are as much as a band.
        const uint block = gridDim.x - 1 - blockIdx.x;
        const uint n = span.n_splits(), first = block / attention.n_kv_heads, step = STEP_SHARING;
        const uint own = first >= min(step, n) ? 0 : STEP_SEVERAL ? (n - 1 - first) / step + 1 : 1;
        known().kv_head = block % attention.n_kv_heads;
        known().from = span.from, known().to = span.to, known().all_splits = n;
        known().n_splits = own, known().last = own > 0 ? first + (own - 1) * step : 0;
        // Heads that come of the row, and behind them what comes of scores, lie where it was; keys and values lie behind.
        const uint row_bytes = args.qkv.shape.n_tiles * QkvMaps::Rows::SHARED_BYTES;
        known().found_at = 4 * ((Heads::HEADS + 1) * Heads::KEYS + Heads::VALUES);
        known().tiles_at = (max(row_bytes, known().found_at + STEP_TEAM_PAIRS * Heads::FOUND_BYTES) + 127) / 128 * 128;
    }
    // The runs of its splits, the same in all layers.
    MEMBER void find_runs() const {
        const AttentionArgs attention = this->attention();
        const uint *tables = memory.inputs + attention.block_tables_at;
        const uint *table = tables + memory.inputs[attention.sequences_at] * attention.max_pages;
        const uint n_runs = SPLIT / RUN;
        for (uint i = threadIdx.x; i < splits.n() * n_runs; i += n_threads()) {
            const uint nth = i / n_runs, run = i % n_runs, split = known().last - nth * STEP_SHARING;
            Handover::runs()[nth].vectors[run] =
                find_run(attention, table, splits.part(split), splits.in_context(split), known().kv_head, run);
        }
        block_barrier();
    }
    // Over the row of the maps of q, k and v.
    static MEMBER float *heads() { return (float *)Handover::rows(); }
    // Of a pair of teams: the other one adds up values.
    MEMBER bool scores() const { return warp / Heads::WARPS % 2 == 0; }

    // Begins to copy keys and values that were stored before.
    MEMBER void begin(const Layer &layer) const {
        if (!splits.is_busy()) return;
        const Heads tiles = splits.tiles(splits.pair());
        if (scores()) splits.copy<Heads::KTile>(tiles.k_tile, layer.k_cache, splits.first());
        else splits.copy<Heads::VTile>(tiles.v_tile, layer.v_cache, splits.first());
    }

    // Turns the heads; who has the last split stores the key and value.
    MEMBER void rotate(const Layer &layer) const {
        const KnownTurns turns = {Handover::turns()};
        const RopeStoreArgs rope = known_rope(args.rope);
        const uint n = Heads::HEADS + (splits.has_newest() ? 2 : 0);
        for (uint head = warp; head < n; head += STEP_SIMDGROUPS) {
            float *x = heads() + head * Heads::KEYS;
            if (head < Heads::HEADS) {
                const TurnedHead out = {x};
                rope_head(rope, x, layer.q_norm, rope.q_eps, turns, out, lane);
                continue;
            }
            const bool is_value = head > Heads::HEADS;
            const uint slot = memory.inputs[rope.slots_at], format = is_value ? rope.v_format : rope.k_format;
            const uint dim = is_value ? uint(Heads::VALUES) : uint(Heads::KEYS), size = rope.page_size;
            const ulong at = kv_vector(slot / size, slot % size, known().kv_head, rope.n_kv_heads, size, kv_bytes(format, dim));
            const uint row = (known().to - 1) % SPLIT;
            const Heads decode = splits.tiles(0);
            const bool in_groups = format == KV_Q8_0;
            const KeptHead out = {in_groups ? x : 0, (is_value ? layer.v_cache : layer.k_cache) + at,
                                  is_value ? decode.v_tile + row * Heads::VTile::STRIDE : decode.k_tile + row * Heads::KTile::STRIDE,
                                  format};
            if (!is_value) rope_head(rope, x, layer.k_norm, rope.k_eps, turns, out, lane);
            else for (uint i = lane; i < dim; i += 32) out.store(i, x[i]);
            if (!in_groups) continue;
            __syncwarp();
            out.store_groups(x, dim, lane);
        }
    }

    // This block's splits.
    MEMBER void run(const Layer &layer, const Mail &mail) const {
        if (splits.n() == 0) return;
        wait_for_copies<0>();
        const uint q = Heads::HEADS * Heads::KEYS, kv = known().kv_head;
        block_barrier();
        receive_words((uint *)heads(), mail.qkv() + kv * q, q, mail.number);
        if (splits.has_newest()) {
            const ulong *k = mail.qkv() + args.qkv.cols0 + kv * Heads::KEYS;
            const ulong *v = mail.qkv() + args.qkv.cols0 + args.qkv.cols1 + kv * Heads::VALUES;
            receive_words((uint *)heads() + q, k, Heads::KEYS, mail.number);
            receive_words((uint *)heads() + q + Heads::KEYS, v, Heads::VALUES, mail.number);
        }
        block_barrier();
        rotate(layer);
        block_barrier();
        if (!splits.is_busy()) return;
        if (scores()) find_shares(layer.k_cache, attention().scale, attention().softcap);
        else weigh(layer.v_cache, sums(mail));
    }

    MEMBER SplitSums sums(const Mail &mail) const { return {mail.partials(), mail.totals(), mail.most_folded(), mail.number}; }

    // Folds what comes of heads' splits, a tile of the map behind at a time, each a block's, and hands it on as the map takes it.
    MEMBER void fold(const Mail &mail) const {
        typedef OutputMap::Rows Rows;
        typedef Folded<FOLD_DIMS> F;
        const SplitSums sums = this->sums(mail);
        const uint n = n_chains(args.attention, known().all_splits), most = mail.most_folded();
        WarpFolds<FOLD_DIMS> &folds = *(WarpFolds<FOLD_DIMS> *)splits.tiles(0).k_tile;
        uchar *row = (uchar *)(&folds + 1);
        // Totals, which any number of chains may have, come last: what lies before them is read by sixteen bytes.
        static_assert(sizeof(folds) % 16 == 0 && Rows::SHARED_BYTES % 16 == 0, "sums lie at a multiple of sixteen bytes");
        float *outs = (float *)(row + Rows::SHARED_BYTES), *totals = outs + most * FOLD_DIMS;
        // Chains have been added up.
        const HeadSplits own = {outs, totals, 1, n, ~0u};
        const auto put = [&](uint dim, float4 v) { Rows::put(row, dim, v); };
        for (uint nth = blockIdx.x; nth < attention().n_heads * FOLDS; nth += gridDim.x) {
            block_barrier();
            receive_words((uint *)outs, sums.sums_of(nth), n * FOLD_DIMS, mail.number);
            receive_words((uint *)totals, sums.totals_of(nth / FOLDS), 2 * n, mail.number);
            block_barrier();
            // Few are a SIMD-group's, as in `merge_attention`.
            const bool is_one = !STEP_SEVERAL || n <= F::TOGETHER;
            if (!is_one) {
                if (warp < MERGE_WARPS) leave(folds, own);
                block_barrier();
            }
            if (warp > 0) continue;
            if (n == 1) {
                if (4 * lane < FOLD_DIMS) put(4 * lane, *(const float4 *)(outs + 4 * lane));
            } else if (is_one) {
                F folded;
                folded.add_all(own, 0, 1, lane);
                folded.finish(lane, put);
            } else {
                folds.fold(lane).finish(lane, put);
            }
            __syncwarp();
            const uint n_words = Mail::OUTPUT_WORDS;
            for (uint i = lane; i < n_words; i += 32) send(mail.output() + nth * n_words + i, ((const uint *)row)[i], mail.number);
        }
    }
    MEMBER void leave(WarpFolds<FOLD_DIMS> &folds, const HeadSplits &splits) const {
        Folded<FOLD_DIMS> folded;
        folded.add_all(splits, warp, MERGE_WARPS, lane);
        folds.leave(folded, warp, lane);
    }
};

#endif
#endif
