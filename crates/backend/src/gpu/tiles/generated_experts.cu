// Maps of experts for one to eight generated rows of each, for every packing: a block has some bands of one item.
#include "few_rows.h"
#include "items.h"
#include "packings.h"

// A single row, which a place says, as it is.
template <typename F> struct PlacedRow : PlainRow<F> {
    MEMBER PlacedRow(const ExpertArgs &args, const float *x, uint row) {
        this->x = x + ulong(row) * args.gated.shape.cols, this->norm = 0;
    }
    MEMBER void begin(const uint *, const TileShape &, BlockRows) const {}
};

// Where the bands of an expert's map begin; teams take them in turn.
template <typename F> struct ExpertWeights {
    enum { ONE_TEAM = true };
    const TileShape &shape;
    const uchar *weight;
    uint n_bands;
    MEMBER const uchar *at(uint nth, uint team) const {
        const uint band = MapWeights<F>::block(nth, team);
        return band < n_bands ? weight + ulong(band) * shape.n_tiles * F::Tile::BYTES : 0;
    }
};

// Writes results of a band to their slots; a thread has the `index`th of its team's, 16 a row.
template <typename F> struct WriteSlots {
    const GatedArgs &args;
    const uint *slots;
    float *made;
    MEMBER void prepare(BlockRows) const {}
    MEMBER void begin(uint, BlockRows) const {}
    MEMBER void operator()(const float *sums, uint nth, BlockRows rows) const {
        const uint index = threadIdx.x % TEAM_THREADS, at = index % 16, r = index / 16;
        const uint o = 16 * MapWeights<F>::block(nth, team()) + at;
        if (index >= 16 * rows.n || o >= args.cols) return;
        made[ulong(slots[rows.first + r]) * args.cols + o] = F::total(sums + team() * PARTS * F::SUMS, at, r, args.shape);
    }
};

// What a block does: nothing where there is no item.
#define ITEM(TILE, SINGLE)                                                           \
    typedef FewRows<TILE, SINGLE> F;                                                 \
    allow_next();                                                                    \
    wait_for_inputs();                                                               \
    const Item item(items, blockIdx.y);                                              \
    const uint row = SINGLE ? row_in(slots, blockIdx.y, args.divide) : 0;            \
    if (item.n == 0) return;                                                         \
    const TileShape &shape = args.gated.shape;                                       \
    const ulong first_band = ulong(item.expert) * (args.gated.cols / 16);            \
    const ulong skipped = first_band * shape.n_tiles * F::Tile::BYTES;               \
    const auto find = [&] { return BlockRows(blockIdx.y * F::MOST, item.n); };

#define LINEAR_BODY(TILE, SINGLE, INPUT)                                                    \
    ITEM(TILE, SINGLE)                                                                      \
    const ExpertWeights<F> weights = {shape, weight + skipped, (args.gated.cols + 15) / 16}; \
    const WriteSlots<F> write = {args.gated, slots, made};                                  \
    multiply_few<F>(inputs, shape, INPUT, weights, write, find);

#define GATED_BODY(TILE, SINGLE, INPUT)                                              \
    ITEM(TILE, SINGLE)                                                               \
    const GatedWeights<F> weights = {args.gated, gate + skipped, up + skipped};      \
    const WriteGated<F> write(args.gated, out);                                      \
    multiply_few<F>(inputs, shape, INPUT, weights, write, find);

// Several blocks must find room on a multiprocessor for weights to keep coming.
#define LINEAR_KERNEL(NAME, TILE, SINGLE, X, INPUT, BOUNDS)                                                            \
    extern "C" __global__ void BOUNDS NAME(const ExpertArgs args, const uint *inputs, const uint *items, const uint *slots, \
                                           const X *x, const uchar *weight, float *made) {                             \
        LINEAR_BODY(TILE, SINGLE, INPUT)                                                                               \
    }
#define GATED_KERNEL(NAME, TILE, SINGLE, X, INPUT, BOUNDS)                                                             \
    extern "C" __global__ void BOUNDS NAME(const ExpertArgs args, const uint *inputs, const uint *items, const uint *slots, \
                                           const X *x, const uchar *gate, const uchar *up, uchar *out) {               \
        GATED_BODY(TILE, SINGLE, INPUT)                                                                                \
    }

#define EXPERT_KERNELS_1(NAME, TILE)                                                                                   \
    GATED_KERNEL(NAME##_gated_1, TILE, true, float, PlacedRow<F>(args, x, row), __launch_bounds__(512, 2))           \
    LINEAR_KERNEL(NAME##_linear_1, TILE, true, float, PlacedRow<F>(args, x, row), __launch_bounds__(256, 4))         \
    LINEAR_KERNEL(NAME##_linear_1c, TILE, true, uchar, ConvertedRows<F>{x}, __launch_bounds__(256, 4))
#define EXPERT_KERNELS_8(NAME, TILE)                                                                                   \
    GATED_KERNEL(NAME##_gated_8, TILE, false, uchar, ConvertedRows<F>{x}, __launch_bounds__(512))                      \
    LINEAR_KERNEL(NAME##_linear_8, TILE, false, uchar, ConvertedRows<F>{x}, __launch_bounds__(512))

#define EXPERT_KERNELS(OP, TILE, NAME, ROWS) EXPERT_KERNELS_##ROWS(OP##_##NAME, TILE_OF(TILE))
#define EXPERT_KERNELS_OF(OP, TILE, NAME) OF_ROWS(FEW_ROWS, EXPERT_KERNELS, OP, TILE, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(EXPERT_KERNELS_OF, generated_experts)
