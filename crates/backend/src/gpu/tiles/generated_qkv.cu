// Maps of queries, keys and values of one to eight generated rows, for every packing, and what stores them: an
// output's sum is turned with its neighbour's where it is made, so that no launch has to wait for all of them.
#include "few_rows.h"
#include "heads.h"
#include "packings.h"

// Turns results of a band and writes them. A thread has the `index`th of its team's, 16 a row.
template <typename F> struct WriteHeads {
    const Heads &heads;
    const Outputs &outputs;
    const uint index;
    // Of the band that is next, and of the row.
    Turn turn;
    uint slot;
    MEMBER WriteHeads(const Heads &heads, const Outputs &outputs)
        : heads(heads), outputs(outputs), index(threadIdx.x % TEAM_THREADS), turn(), slot(0) {}

    // What needs nothing of other kernels.
    MEMBER void prepare(BlockRows rows) {
        if (index >= 16 * rows.n) return;
        slot = heads.slot(rows.first + index / 16);
        find_turn(0, rows);
    }
    MEMBER void find_turn(uint nth, BlockRows rows) {
        const uint block = MapWeights<F>::block(nth, team());
        const HeadPlace place = heads.place(block, 16 * Output(heads.args.maps, outputs, block, 1).band + index % 16);
        if (place.is_turned(heads.rope)) turn = heads.turn(place.dim / 2, rows.first + index / 16);
    }

    MEMBER void begin(uint nth, BlockRows rows) {
        if (nth > 0 && index < 16 * rows.n) find_turn(nth, rows);
    }
    MEMBER void operator()(const float *sums, uint nth, BlockRows rows) const {
        if (index >= 16 * rows.n) return;
        const uint block = MapWeights<F>::block(nth, team()), at = index % 16;
        const Output to(heads.args.maps, outputs, block, 1);
        const uint o = 16 * to.band + at;
        float x = F::total(sums + team() * PARTS * F::SUMS, at, index / 16, heads.args.maps.shape);
        if (to.bias && o < to.cols) x += to.bias[o];
        const float other = __shfl_xor_sync(3u << (threadIdx.x % 32 & 30), x, 1);
        if (o >= to.cols) return;
        const HeadPlace place = heads.place(block, o);
        x = heads.turned(place, x, other, turn);
        if (place.kind == IS_QUERY) to.at(rows.first + index / 16, o) = x;
        else heads.store(place, slot, x);
    }
};

#define QKV_BODY(TILE, SINGLE, INPUT)                                   \
    MAP_OUTPUTS                                                         \
    typedef FewRows<TILE, SINGLE> F;                                    \
    const MapWeights<F> weights = {args.maps, outputs};                 \
    const Heads heads(args, inputs, inv_freq, k_cache, v_cache);        \
    const WriteHeads<F> write(heads, outputs);                          \
    multiply_few<F>(inputs, args.maps.shape, INPUT, weights, write);

// Several blocks must find room on a multiprocessor for weights to keep coming.
#define ONE_KERNEL(NAME, TILE)                                                                                   \
    extern "C" __global__ void __launch_bounds__(256, 4) NAME(const QkvTileArgs args, const uint *inputs,            \
                                                           const float *x, const float *norm, QKV_PARAMETERS) { \
        QKV_BODY(TILE, true, (PlainRow<F>{x, norm}))                                                             \
    }
#define FEW_KERNEL(NAME, TILE)                                                           \
    extern "C" __global__ void __launch_bounds__(512)                                    \
        NAME(const QkvTileArgs args, const uint *inputs, const uchar *x, QKV_PARAMETERS) {   \
        QKV_BODY(TILE, false, ConvertedRows<F>{x})                                       \
    }

#define QKV_KERNELS_1(OP, TILE, NAME) ONE_KERNEL(OP##_##NAME##_1, TILE_OF(TILE))
#define QKV_KERNELS_8(OP, TILE, NAME) FEW_KERNEL(OP##_##NAME##_8, TILE_OF(TILE))

#define QKV_KERNELS(OP, TILE, NAME, ROWS) QKV_KERNELS_##ROWS(OP, TILE, NAME)
#define QKV_KERNELS_OF(OP, TILE, NAME) OF_ROWS(FEW_ROWS, QKV_KERNELS, OP, TILE, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(QKV_KERNELS_OF, generated_qkv)
