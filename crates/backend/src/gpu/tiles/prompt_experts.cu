// Maps of experts for prompt rows, for every packing and 64 to 256 rows a block: a block has 128 outputs of one item.
#include "items.h"
#include "packings.h"
#include "prompt_linear.h"

#if MATRIX_UNIT > 0

// What a block multiplies of its item, where half of its bands may be of another weight.
template <typename Packing>
FN Operands item_operands(const ExpertArgs &args, Item item, const ushort *x, uint first_row, const uchar *weight, uint band) {
    const TileShape &shape = args.gated.shape;
    weight += ulong(item.expert) * (args.gated.cols / 16) * shape.n_tiles * Packing::BYTES;
    return operands(shape, int(item.n), x, first_row, weight, args.gated.cols, band, Packing::BYTES);
}

// 128 outputs of an item, to their slots.
template <typename Packing, uint TOKENS>
FN void expert_linear(const ExpertArgs &args, const uint *items, const uint *slots, const ushort *x, const uchar *weight,
                      float *made) {
    allow_next();
    wait_for_inputs();
    const Item item(items, blockIdx.y);
    if (item.n == 0) return;
    const uint first_row = blockIdx.y * TOKENS, first_band = blockIdx.x * 8;
    const Operands from = item_operands<Packing>(args, item, x, first_row, weight, first_band + copier());
    float sums[TOKENS / 2];
    if (!multiply_all(PromptRing<Packing, TOKENS>{ring_memory<Packing, TOKENS>()}, from, sums)) return;
    const Places<TOKENS> places;
    UNROLL
    for (uint i = 0; i < TOKENS / 2; i++) {
        const uint token = places.token(i), o = first_band * TILE_ROWS + places.output(i);
        if (token < item.n && o < args.gated.cols) made[ulong(slots[first_row + token]) * args.gated.cols + o] = sums[i];
    }
}

// `act(gate) * up` of an item, 64 outputs, as the next map's x.
template <typename Packing, uint TOKENS>
FN void expert_gated(const ExpertArgs &args, const uint *items, const ushort *x, const uchar *gate, const uchar *up,
                     ushort *out) {
    allow_next();
    wait_for_inputs();
    const Item item(items, blockIdx.y);
    if (item.n == 0) return;
    const uint first_row = blockIdx.y * TOKENS;
    const Operands from = item_operands<Packing>(args, item, x, first_row, copier() < 4 ? gate : up,
                                                 blockIdx.x * 4 + copier() % 4);
    gated_rows<Packing, TOKENS>(args.gated, from, first_row, blockIdx.x, out);
}

#endif

#define EXPERT_KERNELS(OP, PACKING, NAME, TOKENS)                                                                      \
    extern "C" __global__ void PROMPT_BOUNDS(TOKENS) OP##_##NAME##_linear_##TOKENS(                                    \
        const ExpertArgs args, const uint *, const uint *items, const uint *slots, const ushort *x, const uchar *weight, \
        float *made) {                                                                                                 \
        PROMPT_BODY((expert_linear<fragments::PACKING, TOKENS>(args, items, slots, x, weight, made)));                 \
    }                                                                                                                  \
    extern "C" __global__ void PROMPT_BOUNDS(TOKENS) OP##_##NAME##_gated_##TOKENS(                                     \
        const ExpertArgs args, const uint *, const uint *items, const uint *, const ushort *x, const uchar *gate,      \
        const uchar *up, ushort *out) {                                                                                \
        PROMPT_BODY((expert_gated<fragments::PACKING, TOKENS>(args, items, x, gate, up, out)));                        \
    }

#define EXPERT_KERNELS_OF(OP, PACKING, NAME) OF_ROWS(PROMPT_TOKENS, EXPERT_KERNELS, OP, PACKING, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(EXPERT_KERNELS_OF, prompt_experts)
