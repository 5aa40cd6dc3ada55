// Maps of queries, keys and values of one to eight generated rows, for every packing, and what stores them: an
// output's sum is turned with its neighbour's where it is made, so that no launch has to wait for all of them.
//
// For pairs that lie side by side, heads without norms of their own and cache formats that store each element alone.
#include "few_rows.h"
#include "packings.h"
#include "known_turns.h"

// What a map's outputs are, as `qkv.rs` has it.
#define IS_QUERY 0
#define IS_KEY 1
#define IS_VALUE 2

// Where an output of a head is.
struct HeadPlace {
    uint kind, head, dim;
    MEMBER HeadPlace(const QkvTileArgs &args, const RopeStoreArgs &rope, uint block, uint o)
        : kind(block >= args.maps.block2 ? args.kind2 : block >= args.maps.block1 ? args.kind1 : args.kind0) {
        if (kind == IS_VALUE) head = o / rope.v_dim, dim = o % rope.v_dim;
        else head = o / rope.k_dim, dim = o % rope.k_dim;
    }
    MEMBER bool is_turned(const RopeStoreArgs &rope) const { return kind != IS_VALUE && dim < 2 * rope.n_pairs; }
};

// Turns results of a band and writes them: queries to where attention reads them, keys and values to the cache.
// A thread has the `index`th of its team's, 16 a row.
template <typename F> struct WriteHeads {
    const QkvTileArgs &args;
    const RopeStoreArgs rope;
    const Outputs &outputs;
    const uint *inputs;
    const float *inv_freq;
    uchar *const k_cache, *const v_cache;
    const uint index;
    // Of the band that is next, and of the row.
    Turn turn;
    uint slot;
    MEMBER WriteHeads(const QkvTileArgs &args, const Outputs &outputs, const uint *inputs, const float *inv_freq,
                      uchar *k_cache, uchar *v_cache)
        : args(args), rope(known_rope(args.rope)), outputs(outputs), inputs(inputs), inv_freq(inv_freq), k_cache(k_cache), v_cache(v_cache),
          index(threadIdx.x % TEAM_THREADS), turn(), slot(0) {}

    // What needs nothing of other kernels.
    MEMBER void prepare(BlockRows rows) {
        if (index >= 16 * rows.n) return;
        slot = inputs[rope.slots_at + rows.first + index / 16];
        find_turn(0, rows);
    }
    MEMBER void find_turn(uint nth, BlockRows rows) {
        const uint block = MapWeights<F>::block(nth, team());
        const HeadPlace place(args, rope, block, 16 * Output(args.maps, outputs, block, 1).band + index % 16);
        if (!place.is_turned(rope)) return;
        turn = turns_of(rope, inputs, inv_freq, rows.first + index / 16).at(place.dim / 2);
    }

    MEMBER void begin(uint nth, BlockRows rows) {
        if (nth > 0 && index < 16 * rows.n) find_turn(nth, rows);
    }
    MEMBER void operator()(const float *sums, uint nth, BlockRows rows) const {
        if (index >= 16 * rows.n) return;
        const uint block = MapWeights<F>::block(nth, team()), at = index % 16;
        const Output to(args.maps, outputs, block, 1);
        const uint o = 16 * to.band + at;
        float x = F::total(sums + team() * PARTS * F::SUMS, at, index / 16, args.maps.shape);
        if (to.bias && o < to.cols) x += to.bias[o];
        const float other = __shfl_xor_sync(3u << (threadIdx.x % 32 & 30), x, 1);
        if (o >= to.cols) return;
        const HeadPlace place(args, rope, block, o);
        if (place.is_turned(rope)) {
            x = at % 2 == 0 ? x * turn.cosine - other * turn.sine : other * turn.sine + x * turn.cosine;
        }
        if (place.kind == IS_QUERY) to.at(rows.first + index / 16, o) = x;
        else if (place.kind == IS_KEY) store(k_cache, rope.k_format, rope.k_dim, place, x);
        else store(v_cache, rope.v_format, rope.v_dim, place, x);
    }
    MEMBER void store(uchar *cache, uint format, uint dims, const HeadPlace &place, float x) const {
        const uint size = rope.page_size, bytes = kv_bytes(format, dims);
        store_kv(format, cache + kv_vector(slot / size, slot % size, place.head, rope.n_kv_heads, size, bytes), place.dim, x);
    }
};

#define QKV_BODY(TILE, SINGLE, INPUT)                                                        \
    MAP_OUTPUTS                                                                              \
    typedef FewRows<TILE, SINGLE> F;                                                         \
    const MapWeights<F> weights = {args.maps, outputs};                                      \
    const WriteHeads<F> write(args, outputs, inputs, inv_freq, k_cache, v_cache);            \
    multiply_few<F>(inputs, args.maps.shape, INPUT, weights, write);
#define QKV_PARAMETERS MAP_PARAMETERS, const float *inv_freq, uchar *k_cache, uchar *v_cache

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
