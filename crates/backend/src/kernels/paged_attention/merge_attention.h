// Folds what came of the splits of generated rows. CUDA only.
#include "splits.h"

#define MERGE_WARPS 8
#define MERGE_THREADS (32 * MERGE_WARPS)

// What a warp of the merging kernel has folded of a row's head: four dimensions a lane, or twice four.
template <uint V_DIM> struct Folded {
    static constexpr uint PER_LANE = (V_DIM + 127) / 128;
    // Splits that are loaded together.
    static constexpr uint TOGETHER = 8 / PER_LANE;
    float most, sum;
    float4 values[PER_LANE];

    MEMBER Folded() : most(LOWEST), sum(0), values() {}

    // Adds up to TOGETHER splits, `stride` vectors apart, of which `n` exist.
    MEMBER void add(const float *outs, const float *totals, ulong stride, uint n, uint lane) {
        float4 loaded[TOGETHER][PER_LANE];
        UNROLL
        for (uint i = 0; i < TOGETHER * PER_LANE; i++) {
            // What does not exist is the last again, of weight 0.
            const uint dim = 4 * lane + 128 * (i % PER_LANE);
            const float *from = outs + stride * min(i / PER_LANE, n - 1) * V_DIM + dim;
            if (V_DIM % 128 == 0 || dim < V_DIM) loaded[i / PER_LANE][i % PER_LANE] = *(const float4 *)from;
        }
        float2 own = {LOWEST, 0};
        if (lane < n) own = *(const float2 *)(totals + stride * lane * 2);
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

    // Adds every `step`th of a head's `n_splits` from the `first`th on; splits are `apart` vectors from each other.
    MEMBER void add_all(const float *outs, const float *totals, uint apart, uint first, uint step, uint n_splits, uint lane) {
        for (uint i = first; i < n_splits; i += TOGETHER * step) {
            const ulong at = ulong(i) * apart;
            const uint n = min((n_splits - i + step - 1) / step, TOGETHER);
            add(outs + at * V_DIM, totals + 2 * at, ulong(step) * apart, n, lane);
        }
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

// Folds the splits of a row's heads. Few splits are a warp's; else warp w of W takes every Wth from the wth
// on, and the warps' sums follow in order. Calls `put(row, column, four elements)`; `alone(row, head, lane)` is for a
// head that has no other split. Grid: query heads, rows.
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
    const bool is_warps = n_splits <= F::TOGETHER;
    const uint head = is_warps ? blockIdx.x * MERGE_WARPS + warp : blockIdx.x;
    if (head >= args.n_heads) return;
    if (n_splits == 1) return alone(row, head, lane);
    const Partials partials(args, (float *)scratch);
    const ulong at = ulong(item) * args.n_heads + head;
    F folded;
    folded.add_all(partials.outs + at * V_DIM, partials.totals + 2 * at, args.n_heads, is_warps ? 0 : warp,
                   is_warps ? 1 : MERGE_WARPS, n_splits, lane);
    if (!is_warps) {
        folds.leave(folded, warp, lane);
        __syncthreads();
        if (warp > 0) return;
        folded = folds.fold(lane);
    }
    folded.finish(lane, [&](uint dim, float4 values) { put(row, head * V_DIM + dim, values); });
}
