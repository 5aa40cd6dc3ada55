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
    MEMBER uint kind() const { return heads.place(blockIdx.x / PART_GROUPS, 16 * output.band).kind; }
};

// The turns of the rows of which a block has a share, found while others multiply.
template <typename R> struct BlockTurns {
    static constexpr uint OWN = R::SUMS / PART_GROUPS, ROWS = OWN > 4 ? 2 * OWN : 8, BYTES = ROWS * MAX_PAIRS * sizeof(Turn);
    Turn *turns;
    uint n_pairs;
    static MEMBER uint first_row() { return blockIdx.x % PART_GROUPS * R::SUMS / PART_GROUPS / 4 * 8; }
    MEMBER Turn at(uint row, uint pair) const { return turns[(row - first_row()) * n_pairs + pair]; }
    MEMBER void find(const BlockHeads &block) const {
        if (block.kind() == IS_VALUE) return;
        UNROLL_BY(1)
        for (uint i = threadIdx.x; i < ROWS * n_pairs; i += R::THREADS) {
            const uint row = first_row() + i / n_pairs;
            if (row < block.rows.n) turns[i] = block.heads.turn(i % n_pairs, block.rows.first + row);
        }
    }
};

// Turns and writes this block's share of results; `add(sums, chunk)` gives the sums of a chunk.
template <typename R, typename Add> FN void write_heads(const BlockHeads &block, const BlockTurns<R> &turns, const Add &add) {
    typedef Share<R, BANDS> Own;
    const Output &output = block.output;
    // As many of a thread's, at most, are waited for together.
    constexpr uint side_by_side = Chunk<R>::N, own = (Own::N + R::THREADS - 1) / R::THREADS, batch = own < 2 ? own : 2;
    const bool is_stored = block.kind() != IS_QUERY;
    UNROLL_BY(1)
    for (uint first = threadIdx.x; first < Own::N; first += batch * R::THREADS) {
        float sums[batch][side_by_side];
        uint slots[batch][side_by_side];
        UNROLL
        for (uint i = 0; i < batch; i++) {
            const Chunk<R> chunk = Own::at(first + i * R::THREADS);
            UNROLL
            for (uint k = 0; k < side_by_side; k++) {
                const uint row = chunk.place(k).row;
                slots[i][k] = is_stored && row < block.rows.n ? block.heads.slot(block.rows.first + row) : 0;
                sums[i][k] = 0;
            }
            if (first + i * R::THREADS < Own::N && chunk.place(0).row < block.rows.n) add(sums[i], chunk);
        }
        UNROLL
        for (uint i = 0; i < batch * side_by_side; i++) {
            const uint nth = i / side_by_side, k = i % side_by_side;
            const Place place = Own::at(first + nth * R::THREADS).place(k);
            const uint o = block.output_of(place), row = block.rows.first + place.row;
            float x = sums[nth][k];
            if (output.bias && o < output.cols) x += output.bias[o];
            // A lane's neighbour has the next four outputs.
            const float other = __shfl_xor_sync(0xffffffffu, x, 4);
            if (first + nth * R::THREADS >= Own::N || place.row >= block.rows.n || o >= output.cols) continue;
            const HeadPlace head = block.head(place);
            if (head.is_turned(block.heads.rope)) x = block.heads.turned(head, x, other, turns.at(place.row, head.dim / 2));
            if (head.kind == IS_QUERY) output.at(row, o) = x;
            else block.heads.store(head, slots[nth][k], x);
        }
    }
}

// 256 outputs of one of the maps.
template <typename Packing, uint TOKENS>
FN void rounded_qkv(const QkvTileArgs &args, const uint *inputs, const ushort *x, const Outputs &outputs, float *partial,
                    uint *arrived, const float *inv_freq, uchar *k_cache, uchar *v_cache) {
    typedef Rounded<Packing, TOKENS> R;
    const BlockRows rows(inputs, args.maps.shape, TOKENS);
    const Output output(args.maps, outputs, blockIdx.x / PART_GROUPS, BANDS);
    float sums[R::SUMS];
    if (!multiply_map<R, TOKENS>(args.maps.shape, x, rows, output, sums)) return;
    const Heads heads(args, inputs, inv_freq, k_cache, v_cache);
    const BlockHeads block = {heads, output, rows};
    // Where the ring was.
    uchar *memory = ring_memory();
    const BlockTurns<R> turns = {(Turn *)memory, heads.rope.n_pairs};
    static_assert(BlockTurns<R>::BYTES + (PART_GROUPS == 1 ? R::SUMS * R::THREADS * 4 : 0) <= R::BARRIERS, "turns have room");
    if (PART_GROUPS == 1) {
        // Nobody reads the ring any longer; it keeps a thread's sums, so that the loop over them need not be unrolled.
        float *own = (float *)(memory + BlockTurns<R>::BYTES);
        __syncthreads();
        UNROLL
        for (uint i = 0; i < R::SUMS; i++) own[Chunk<R>::at(i, threadIdx.x)] = sums[i];
        turns.find(block);
        __syncthreads();
        return write_heads(block, turns, [&](float (&sums)[Chunk<R>::N], const Chunk<R> &chunk) {
            UNROLL
            for (uint i = 0; i < Chunk<R>::N; i++) sums[i] = own[chunk.at() + i];
        });
    }
    const float *total = show_sums<R>(partial, arrived, sums, [&] { turns.find(block); });
    write_heads(block, turns, OfBlocks<R>{total});
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
