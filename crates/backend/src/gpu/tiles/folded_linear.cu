// The map behind attention for a single row with a short context, for every packing: who multiplies folds the splits
// that it reads, which saves a launch. The sums are those of merge_attention.h, in the same order.
#include "few_rows.h"
#include "packings.h"
#include "splits.h"

// Splits that there may be, all of which are loaded together; `step.rs` and `attended.rs` count as this does.
#define MOST_FOLDED 8

template <typename F> struct FoldedRow {
    const AttentionArgs args;
    // What attention has left where a row has one split, and where it has several.
    const float *whole;
    const Partials partials;
    uint n_splits, item;

    MEMBER FoldedRow(const AttentionArgs &args, const float *whole, float *partials)
        : args(known_attention(args)), whole(whole), partials(args, partials), n_splits(1), item(0) {}
    MEMBER void begin(const uint *inputs, const TileShape &, BlockRows here) {
        if (here.n == 0) return;
        n_splits = Span(args, inputs[args.places_at + here.first] + 1).n_splits();
        item = inputs[args.row_items_at + here.first];
    }
    MEMBER void fetch(const TileShape &shape, uchar *to) const {
        UNROLL_BY(1)
        for (uint col = 4 * threadIdx.x; col < shape.cols; col += 4 * n_threads()) {
            F::Rows::put(to + col / 64 * F::Rows::SHARED_BYTES, col, n_splits == 1 ? *(const float4 *)(whole + col) : folded(col));
        }
        group_barrier();
    }

    // Four elements of a head.
    MEMBER float4 folded(uint col) const {
        const ulong vector = ulong(item) * args.n_heads + col / args.v_dim;
        const float *outs = partials.outs + vector * args.v_dim + col % args.v_dim, *totals = partials.totals + 2 * vector;
        float4 loaded[MOST_FOLDED];
        float2 own[MOST_FOLDED];
        UNROLL
        for (uint i = 0; i < MOST_FOLDED; i++) {
            // What does not exist is the last again, of weight 0.
            const ulong apart = ulong(min(i, n_splits - 1)) * args.n_heads;
            loaded[i] = *(const float4 *)(outs + apart * args.v_dim), own[i] = *(const float2 *)(totals + 2 * apart);
        }
        float most = LOWEST, sums[MOST_FOLDED], weights[MOST_FOLDED];
        UNROLL
        for (uint i = 0; i < MOST_FOLDED; i++) most = larger(most, own[i].x);
        float4 v = {0, 0, 0, 0};
        UNROLL
        for (uint i = 0; i < MOST_FOLDED; i++) {
            weights[i] = i < n_splits ? exact_exp(own[i].x - most) : 0;
            sums[i] = i < n_splits ? own[i].y * weights[i] : 0;
            const float4 x = loaded[i];
            v.x = multiply_add(x.x, weights[i], v.x), v.y = multiply_add(x.y, weights[i], v.y);
            v.z = multiply_add(x.z, weights[i], v.z), v.w = multiply_add(x.w, weights[i], v.w);
        }
        // As `simd_sum` of eight lanes adds them up.
        UNROLL
        for (uint offset = MOST_FOLDED / 2; offset > 0; offset /= 2) {
            UNROLL
            for (uint i = 0; i < offset; i++) sums[i] += sums[i + offset];
        }
        const float4 quotients = {v.x / sums[0], v.y / sums[0], v.z / sums[0], v.w / sums[0]};
        return quotients;
    }
};

// Several blocks must find room on a multiprocessor for weights to keep coming.
#define FOLDED_KERNEL(NAME, TILE, ADD)                                                                        \
    extern "C" __global__ void __launch_bounds__(256, 4)                                                      \
        NAME(const FoldedArgs args, const uint *inputs, const float *whole, float *partials, MAP_PARAMETERS) { \
        MAP_OUTPUTS                                                                                           \
        typedef FewRows<TILE, true> F;                                                                        \
        const MapWeights<F> weights = {args.maps, outputs};                                                   \
        const WriteMap<F, ADD> write(args.maps, outputs);                                                     \
        const FoldedRow<F> row(args.attention, whole, partials);                                              \
        multiply_few<F>(inputs, args.maps.shape, row, weights, write);                                        \
    }

#define FOLDED_KERNELS_OF(OP, TILE, NAME)                      \
    FOLDED_KERNEL(OP##_##NAME##_store, TILE_OF(TILE), false) \
    FOLDED_KERNEL(OP##_##NAME##_add, TILE_OF(TILE), true)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(FOLDED_KERNELS_OF, folded_linear)
