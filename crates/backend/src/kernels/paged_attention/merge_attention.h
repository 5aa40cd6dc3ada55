// Folds what came of the splits of generated rows. CUDA only.
#include "splits.h"

#define MERGE_WARPS 8
#define MERGE_THREADS (32 * MERGE_WARPS)

// What came of a head's splits: `n_splits` vectors `apart` vectors from each other, of which those that are `chains` from each
// other are one's.
struct HeadSplits {
    const float *outs, *totals;
    uint apart, n_splits, chains;
    MEMBER uint n() const { return min(chains, n_splits); }
    // The last of a chain.
    MEMBER uint last(uint chain) const { return n_splits <= chains ? chain : chain + (n_splits - 1 - chain) / chains * chains; }
};

// What a warp of the merging kernel has folded of a row's head: four dimensions a lane, or twice four.
template <uint V_DIM> struct Folded {
    static constexpr uint PER_LANE = (V_DIM + 127) / 128;
    // Chains that are loaded together.
    static constexpr uint TOGETHER = 8 / PER_LANE;
    float most, sum;
    float4 values[PER_LANE];

    MEMBER Folded() : most(LOWEST), sum(0), values() {}

    // Four elements of a split, or twice four.
    static MEMBER void load(float4 (&to)[PER_LANE], const HeadSplits &splits, uint split, uint lane) {
        const float *from = splits.outs + ulong(split) * splits.apart * V_DIM;
        UNROLL
        for (uint i = 0; i < PER_LANE; i++) {
            const uint dim = 4 * lane + 128 * i;
            if (V_DIM % 128 == 0 || dim < V_DIM) to[i] = *(const float4 *)(from + dim);
        }
    }

    // Adds up to TOGETHER chains, the first and those `step` from each other behind it, of which `n` exist.
    MEMBER void add(const HeadSplits &splits, uint first, uint step, uint n, uint lane) {
        float4 loaded[TOGETHER][PER_LANE];
        UNROLL
        // What does not exist is the last again, of weight 0.
        for (uint i = 0; i < TOGETHER; i++) load(loaded[i], splits, splits.last(first + min(i, n - 1) * step), lane);
        float2 own = {LOWEST, 0};
        uint split = lane < n ? splits.last(first + lane * step) : 0;
        if (lane < n) own = *(const float2 *)(splits.totals + 2 * ulong(split) * splits.apart);
        while (splits.n_splits > splits.chains && simd_max(lane < n && split >= splits.chains ? 1u : 0u) > 0) {
            const bool has_more = lane < n && split >= splits.chains;
            float2 other = {LOWEST, 0};
            if (has_more) split -= splits.chains, other = *(const float2 *)(splits.totals + 2 * ulong(split) * splits.apart);
            const Link link(own.x, own.y, other.x, other.y);
            if (has_more) own.x = link.most, own.y = link.sum;
            UNROLL
            for (uint i = 0; i < TOGETHER; i++) {
                const uint from = __shfl_sync(0xffffffff, has_more ? split : ~0u, i);
                const float keep = __shfl_sync(0xffffffff, link.keep, i), weight = __shfl_sync(0xffffffff, link.weight, i);
                if (from != ~0u) add_linked(loaded[i], splits, from, keep, weight, lane);
            }
        }
        const float now = larger(most, simd_max(own.x)), keep = exact_exp(most - now);
        const float own_weight = lane < n ? exact_exp(own.x - now) : 0;
        most = now;
        sum = multiply_add(sum, keep, simd_sum(own.y * own_weight));
        UNROLL
        for (uint j = 0; j < PER_LANE; j++) {
            float4 &v = values[j];
            v.x *= keep, v.y *= keep, v.z *= keep, v.w *= keep;
            UNROLL
            for (uint i = 0; i < TOGETHER; i++) {
                const float weight = __shfl_sync(0xffffffff, own_weight, i);
                const float4 x = loaded[i][j];
                v.x = multiply_add(x.x, weight, v.x), v.y = multiply_add(x.y, weight, v.y);
                v.z = multiply_add(x.z, weight, v.z), v.w = multiply_add(x.w, weight, v.w);
            }
        }
    }

    // Adds a split to what is loaded of those behind it.
    static MEMBER void add_linked(float4 (&to)[PER_LANE], const HeadSplits &splits, uint split, float keep, float weight, uint lane) {
        float4 other[PER_LANE];
        load(other, splits, split, lane);
        UNROLL
        for (uint i = 0; i < PER_LANE; i++) {
            float4 &v = to[i];
            const float4 x = other[i];
            v.x = linked(v.x, keep, x.x, weight), v.y = linked(v.y, keep, x.y, weight);
            v.z = linked(v.z, keep, x.z, weight), v.w = linked(v.w, keep, x.w, weight);
        }
    }

    // Adds every `step`th of a head's chains from the `first`th on.
    MEMBER void add_all(const HeadSplits &splits, uint first, uint step, uint lane) {
        const uint n = splits.n();
        for (uint i = first; i < n; i += TOGETHER * step) add(splits, i, step, min((n - i + step - 1) / step, TOGETHER), lane);
    }

    // Calls `put(dim, four elements)` for the head's result.
    template <typename Put> MEMBER void finish(uint lane, const Put &put) const {
        UNROLL
        for (uint j = 0; j < PER_LANE; j++) {
            const float4 v = values[j];
            const float4 quotients = {v.x / sum, v.y / sum, v.z / sum, v.w / sum};
            if (V_DIM % 128 == 0 || 4 * lane + 128 * j < V_DIM) put(4 * lane + 128 * j, quotients);
        }
    }
};

// What the warps of a block have folded of one head.
template <uint V_DIM> struct WarpFolds {
    typedef Folded<V_DIM> F;
    float maxima[MERGE_WARPS], sums[MERGE_WARPS];
    float4 values[MERGE_WARPS][F::PER_LANE * 32];

    MEMBER void leave(const F &folded, uint warp, uint lane) {
        if (lane == 0) maxima[warp] = folded.most, sums[warp] = folded.sum;
        UNROLL
        for (uint j = 0; j < F::PER_LANE; j++) values[warp][32 * j + lane] = folded.values[j];
    }

    // All of them, in order.
    MEMBER F fold(uint lane) const {
        F all;
        float most = LOWEST;
        for (uint w = 0; w < MERGE_WARPS; w++) most = larger(most, maxima[w]);
        for (uint w = 0; w < MERGE_WARPS; w++) {
            const float weight = exact_exp(maxima[w] - most);
            all.sum = multiply_add(sums[w], weight, all.sum);
            UNROLL
            for (uint j = 0; j < F::PER_LANE; j++) {
                const float4 x = values[w][32 * j + lane];
                float4 &v = all.values[j];
                v.x = multiply_add(x.x, weight, v.x), v.y = multiply_add(x.y, weight, v.y);
                v.z = multiply_add(x.z, weight, v.z), v.w = multiply_add(x.w, weight, v.w);
            }
        }
        return all;
    }
};

// Folds the splits of a row's heads. Few chains are a warp's; else warp w of W takes every Wth from the wth
// on, and the warps' sums follow in order. Calls `put(row, column, four elements)`; `alone(row, head, lane)` is for a
// head that has no other split. Grid: query heads or as many warps, rows.
template <uint V_DIM, typename Put, typename Alone>
FN void merge_attention(const AttentionArgs &args, const uint *inputs, const Batch &batch, const float *scratch,
                        const Put &put, const Alone &alone) {
    typedef Folded<V_DIM> F;
    __shared__ WarpFolds<V_DIM> folds;
    const uint row = batch.first_row + blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool exists = row < batch.end_row;
    const uint n_splits = exists ? Span(args, inputs[args.places_at + row] + 1).n_splits() : 1;
    const uint item = exists ? inputs[args.row_items_at + row] : 0;
    wait_for_inputs();
    allow_next();
    if (!exists) return;
    const bool is_warps = n_chains(args, n_splits) <= F::TOGETHER;
    const uint first = is_warps ? blockIdx.x * MERGE_WARPS + warp : blockIdx.x, step = is_warps ? gridDim.x * MERGE_WARPS : gridDim.x;
    const Partials partials(args, (float *)scratch);
    for (uint head = first; head < args.n_heads; head += step) {
        if (n_splits == 1) {
            alone(row, head, lane);
            continue;
        }
        const ulong at = ulong(item) * args.n_heads + head;
        const HeadSplits splits = {partials.outs + at * V_DIM, partials.totals + 2 * at, args.n_heads, n_splits, args.chains};
        F folded;
        folded.add_all(splits, is_warps ? 0 : warp, is_warps ? 1 : MERGE_WARPS, lane);
        if (!is_warps) {
            __syncthreads();
            folds.leave(folded, warp, lane);
            __syncthreads();
            if (warp > 0) continue;
            folded = folds.fold(lane);
        }
        folded.finish(lane, [&](uint dim, float4 values) { put(row, head * V_DIM + dim, values); });
    }
}
