// Maps of queries, keys and values of generated rows in bfloat16, for every packing and 8 to 64 rows a block, and what stores
// them, as `generated_qkv.cu` has it for fewer rows.
#include "heads.h"
#include "packings.h"
#include "rounded.h"

#if MATRIX_UNIT == 90

// A block's outputs and rows.
struct BlockHeads {
    const Heads &heads;
    const Output &output;
    const BlockRows rows;
    MEMBER uint output_of(Place place) const { return 16 * output.band + place.output; }
    MEMBER HeadPlace head(Place place) const { return heads.place(blockIdx.x / PART_GROUPS, output_of(place)); }
    MEMBER Turn turn(Place place) const {
        const HeadPlace head = this->head(place);
        Turn turn = {};
        if (place.row < rows.n && head.is_turned(heads.rope)) turn = heads.turn(head, rows.first + place.row);
        return turn;
    }
};

// Turns and writes this block's share of results, of which each is `sum(i, place)` and turned by `turn(i, place)`.
template <typename R, typename Sum, typename FindTurn>
FN void write_heads(const BlockHeads &block, const Sum &sum, const FindTurn &turn) {
    typedef Share<R, BANDS> Own;
    const Output &output = block.output;
    // As many of a thread's, at most, are waited for together.
    constexpr uint own = (Own::N + R::THREADS - 1) / R::THREADS, batch = own < 8 ? own : 8;
    UNROLL_BY(1)
    for (uint first = threadIdx.x; first < Own::N; first += batch * R::THREADS) {
        float sums[batch];
        uint slots[batch];
        UNROLL
        for (uint i = 0; i < batch; i++) {
            const uint e = first + i * R::THREADS;
            const Place place = Own::at(e);
            const bool exists = e < Own::N && place.row < block.rows.n;
            sums[i] = exists ? sum(e, place) : 0;
            slots[i] = exists && block.head(place).kind != IS_QUERY ? block.heads.slot(block.rows.first + place.row) : 0;
        }
        UNROLL
        for (uint i = 0; i < batch; i++) {
            const uint e = first + i * R::THREADS;
            const Place place = Own::at(e);
            const uint o = block.output_of(place), row = block.rows.first + place.row;
            float x = sums[i];
            if (output.bias && o < output.cols) x += output.bias[o];
            // A lane's neighbour has the next four outputs.
            const float other = __shfl_xor_sync(0xffffffffu, x, 4);
            if (e >= Own::N || place.row >= block.rows.n || o >= output.cols) continue;
            const HeadPlace head = block.head(place);
            x = block.heads.turned(head, x, other, turn(e, place));
            if (head.kind == IS_QUERY) output.at(row, o) = x;
            else block.heads.store(head, slots[i], x);
        }
    }
}

// 256 outputs of one of the maps.
template <typename Packing, uint TOKENS>
FN void rounded_qkv(const QkvTileArgs &args, const uint *inputs, const ushort *x, const Outputs &outputs, float *partial,
                    uint *arrived, const float *inv_freq, uchar *k_cache, uchar *v_cache) {
    typedef Rounded<Packing, TOKENS> R;
    const TileShape &shape = args.maps.shape;
    const BlockRows rows(inputs, shape, TOKENS);
    if (rows.n == 0) return wait_for_inputs();
    allow_next();
    const Output output(args.maps, outputs, blockIdx.x / PART_GROUPS, BANDS);
    float sums[R::SUMS];
    uchar *memory = ring_memory();
    multiply_parts<R, TOKENS>(shape, own_band<Packing>(output, shape), x, rows.n, shared_address(memory), sums);
    const Heads heads(args, inputs, inv_freq, k_cache, v_cache);
    const BlockHeads block = {heads, output, rows};
    if (PART_GROUPS == 1) {
        // Nobody reads the ring any longer; it keeps a thread's sums, so that the loop over them need not be unrolled.
        float *own = (float *)memory + threadIdx.x;
        __syncthreads();
        UNROLL
        for (uint i = 0; i < R::SUMS; i++) own[i * R::THREADS] = sums[i];
        return write_heads<R>(block, [&](uint i, Place) { return own[i - threadIdx.x]; }, [&](uint, Place place) { return block.turn(place); });
    }
    // Turns of a block's share, found while others multiply.
    Turn *turns = (Turn *)memory;
    static_assert(PART_GROUPS == 1 || Share<R, BANDS>::N * sizeof(Turn) <= R::BARRIERS, "turns have room where the ring was");
    const float *total = show_sums<R>(partial, arrived, sums, [&] {
        typedef Share<R, BANDS> Own;
        UNROLL_BY(1)
        for (uint i = threadIdx.x; i < Own::N; i += R::THREADS) turns[i] = block.turn(Own::at(i));
    });
    write_heads<R>(block, [&](uint, Place place) { return sum_of_blocks<R>(total, place.at); },
                   [&](uint i, Place) { return turns[i]; });
}

#endif

#define QKV_KERNEL(OP, PACKING, NAME, TOKENS)                                                                                  \
    extern "C" __global__ void ROUNDED_BOUNDS                                                                                  \
        OP##_##NAME##_##TOKENS(const QkvTileArgs args, const uint *inputs, const ushort *x, QKV_PARAMETERS, float *partial,    \
                               uint *arrived) {                                                                                \
        MAP_OUTPUTS                                                                                                            \
        ROUNDED_BODY((rounded_qkv<fragments::PACKING, TOKENS>(args, inputs, x, outputs, partial, arrived, inv_freq, k_cache, v_cache))); \
    }

#define QKV_KERNELS_OF(OP, PACKING, NAME) OF_ROWS(ROUNDED_TOKENS, QKV_KERNEL, OP, PACKING, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(QKV_KERNELS_OF, rounded_qkv)
