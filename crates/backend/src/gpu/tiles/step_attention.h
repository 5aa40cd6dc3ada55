// What a block of step.h reads of others' results, and attention: splits of a key/value head
// each block's, and the fold of a head's splits another's.
#ifndef QUARREL_STEP_ATTENTION_H
#define QUARREL_STEP_ATTENTION_H

#include "step_row.h"

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
    block_barrier();
    receive_words((uint *)rows, mail.hidden(), first / 64 * Mail::DOWN_WORDS, mail.number);
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
        __syncwarp();
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

// Attention of the step's row, a split of a key/value head at a time. A block's splits are of one head, its last one
// first: the newest key and value are in the last of all.
struct StepAttention {
    const StepArgs &args;
    const StepMemory &memory;
    const Span span;
    const uint n_splits;
    const uint lane, warp;
    const Work work;  // that of its last split, the same in all layers

    MEMBER StepAttention(const StepArgs &args, const StepMemory &memory)
        : args(args), memory(memory), span(args.attention, memory.inputs[args.attention.places_at] + 1),
          n_splits(span.n_splits()),
          lane(threadIdx.x % 32), warp(threadIdx.x / 32),
          work(work_of(min(last(), n_splits - 1))) {
        know_turns(Handover::turns(), turns_of(args.rope, memory.inputs, memory.inv_freq, 0), args.rope.n_pairs);
    }

    // By one thread, before all begin.
    static MEMBER void find(const StepArgs &args, const StepMemory &memory) {
        const uint n = Span(args.attention, memory.inputs[args.attention.places_at] + 1).n_splits();
        const uint first = blockIdx.x / args.attention.n_kv_heads;
        const bool goes_on = STEP_SEVERAL && first < min(args.sharing, n);
        known().kv_head = blockIdx.x % args.attention.n_kv_heads, known().first = first;
        known().last = goes_on ? first + (n - 1 - first) / args.sharing * args.sharing : first;
    }
    MEMBER uint kv_head() const { return known().kv_head; }
    // This block's splits.
    MEMBER uint first() const { return known().first; }
    MEMBER uint last() const { return known().last; }
    MEMBER bool has_work() const { return first() < min(args.sharing, n_splits); }
    MEMBER Work work_of(uint split) const {
        const uint *tables = memory.inputs + args.attention.block_tables_at;
        const uint *table = tables + memory.inputs[args.attention.sequences_at] * args.attention.max_pages;
        return Work(args.attention, table, span, span.from / SPLIT + split, kv_head());
    }
    // Over the row of the maps of q, k and v.
    static MEMBER float *heads() { return (float *)Handover::rows(); }
    // Behind both.
    MEMBER Heads tiles() const {
        const uint heads_bytes = 4 * ((Heads::HEADS + 1) * Heads::KEYS + Heads::VALUES);
        const uint bytes = max(args.qkv.shape.n_tiles * QkvMaps::Rows::SHARED_BYTES, heads_bytes);
        return Heads(Handover::rows() + (bytes + 127) / 128 * 128);
    }

    // Begins to copy keys and values that were stored before.
    MEMBER void begin(const Layer &layer) const {
        if (warp >= DECODE_WARPS || !has_work()) return;
        const Heads decode = tiles();
        decode.copy<Heads::KTile>(decode.k_tile, layer.k_cache, work);
        decode.copy<Heads::VTile>(decode.v_tile, layer.v_cache, work);
    }

    // Turns the heads; who has the last split stores the key and value.
    MEMBER void rotate(const Layer &layer) const {
        const KnownTurns turns = {Handover::turns()};
        const RopeStoreArgs rope = known_rope(args.rope);
        const uint n = Heads::HEADS + (last() == n_splits - 1 ? 2 : 0);
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
            const ulong at = kv_vector(slot / size, slot % size, kv_head(), rope.n_kv_heads, size, kv_bytes(format, dim));
            const uint row = (span.to - 1) % SPLIT;
            const Heads decode = tiles();
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

    // The place of what comes of a head's split; `head` counts all.
    MEMBER uint vector(uint head, uint split) const { return head * args.max_splits + split; }

    // This block's splits.
    MEMBER void run(const Layer &layer, const Mail &mail) const {
        if (!has_work()) return;
        wait_for_copies<0>();
        const uint q = Heads::HEADS * Heads::KEYS, kv = kv_head();
        block_barrier();
        receive_words((uint *)heads(), mail.qkv() + kv * q, q, mail.number);
        if (last() == n_splits - 1) {
            const ulong *k = mail.qkv() + args.qkv.cols0 + kv * Heads::KEYS;
            const ulong *v = mail.qkv() + args.qkv.cols0 + args.qkv.cols1 + kv * Heads::VALUES;
            receive_words((uint *)heads() + q, k, Heads::KEYS, mail.number);
            receive_words((uint *)heads() + q + Heads::KEYS, v, Heads::VALUES, mail.number);
        }
        block_barrier();
        rotate(layer);
        block_barrier();
        if (warp >= DECODE_WARPS) return;
        attend(layer, mail);
    }
    // As `decode_attention`: of several splits the next one's keys and values come while it computes.
    MEMBER void attend(const Layer &layer, const Mail &mail) const {
        const Heads decode = tiles();
        Part part = work.part;
        for (uint split = last();; split -= args.sharing) {
            const bool is_last = !STEP_SEVERAL || split == first();
            const Work next = STEP_SEVERAL ? work_of(is_last ? split : split - args.sharing) : work;
            float scores[Heads::N_TILES][2][4];
            decode.score(scores, [&](uint n, uint i) { return decode.query(heads(), n, i); }, args.attention, part);
            if (!is_last) __syncwarp(), decode.copy<Heads::KTile>(decode.k_tile, layer.k_cache, next);
            decode.find_maxima(scores);
            decode.barrier();
            decode.share(scores);
            if (!is_last) wait_for_copies<1>();
            else if (STEP_SEVERAL) wait_for_copies<0>();
            if (STEP_SEVERAL) __syncwarp();
            decode.clear_unseen(part);
            decode.barrier();
            send_split(decode, part, split, mail);
            if (is_last) return;
            decode.barrier();
            decode.copy<Heads::VTile>(decode.v_tile, layer.v_cache, next);
            part = next.part;
        }
    }
    MEMBER void send_split(const Heads &decode, Part part, uint split, const Mail &mail) const {
        float sums[Heads::WARP_M_TILES][Heads::N_TILES][4];
        decode.weigh(sums, part);
        const uint first = kv_head() * Heads::HEADS;
        decode.store(sums, n_splits == 1, [&](uint head, uint dim, float sum) {
            send(mail.partials() + vector(first + head, split) * Heads::VALUES + dim, sum, mail.number);
        });
        if (threadIdx.x >= Heads::HEADS) return;
        ulong *totals = mail.totals() + 2 * vector(first + threadIdx.x, split);
        send(totals, decode.maximum(threadIdx.x), mail.number);
        send(totals + 1, decode.sum(threadIdx.x), mail.number);
    }

    // Folds the splits of heads, each a block's, and hands results on as the map behind takes them.
    MEMBER void fold(const Mail &mail) const {
        typedef OutputMap::Rows Rows;
        float *outs = (float *)tiles().k_tile, *totals = outs + args.max_splits * Heads::VALUES;
        WarpFolds<Heads::VALUES> &folds = *(WarpFolds<Heads::VALUES> *)(totals + 2 * args.max_splits);
        uchar *row = (uchar *)(&folds + 1);
        const auto put = [&](uint dim, float4 v) { Rows::put(row + dim / 64 * Rows::SHARED_BYTES, dim, v); };
        for (uint head = gridDim.x - 1 - blockIdx.x; head < args.attention.n_heads; head += gridDim.x) {
            block_barrier();
            receive_words((uint *)outs, mail.partials() + vector(head, 0) * Heads::VALUES, n_splits * Heads::VALUES, mail.number);
            receive_words((uint *)totals, mail.totals() + 2 * vector(head, 0), 2 * n_splits, mail.number);
            block_barrier();
            // Few are a SIMD-group's, as in `merge_attention`.
            const bool is_one = !STEP_SEVERAL || n_splits <= Folded<Heads::VALUES>::TOGETHER;
            if (!is_one) {
                if (warp < MERGE_WARPS) leave(folds, outs, totals);
                block_barrier();
            }
            if (warp > 0) continue;
            if (n_splits == 1) {
                for (uint dim = 4 * lane; dim < Heads::VALUES; dim += 128) put(dim, *(const float4 *)(outs + dim));
            } else if (is_one) {
                Folded<Heads::VALUES> folded;
                folded.add_all(outs, totals, 1, 0, 1, n_splits, lane);
                folded.finish(lane, put);
            } else {
                folds.fold(lane).finish(lane, put);
            }
            __syncwarp();
            const uint n = Heads::VALUES / 64 * Mail::OUTPUT_WORDS;
            for (uint i = lane; i < n; i += 32) send(mail.output() + head * n + i, ((const uint *)row)[i], mail.number);
        }
    }
    MEMBER void leave(WarpFolds<Heads::VALUES> &folds, const float *outs, const float *totals) const {
        Folded<Heads::VALUES> folded;
        folded.add_all(outs, totals, 1, warp, MERGE_WARPS, n_splits, lane);
        folds.leave(folded, warp, lane);
    }
};

#endif
#endif
