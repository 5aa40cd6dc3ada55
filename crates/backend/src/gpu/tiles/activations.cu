// Activations for the kernels over tiles, with and without a norm before.
#include "items.h"
#include "row.h"

#define NORM_CONVERSION(NAME, CONVERT, OUT, SIZE)                                                         \
    extern "C" __global__ void __launch_bounds__(1024) norm_##NAME(const TileShape args, const uint *inputs, const float *x,      \
                                           const float *norm, OUT *out) {                                 \
        __shared__ float partial[MAX_SIMDGROUPS];                                                         \
        convert_row(args, inputs, x, norm, partial, CONVERT{out, args.SIZE});                             \
    }

#define CONVERSION(NAME, CONVERT, OUT, SIZE)                                                              \
    NORM_CONVERSION(NAME, CONVERT, OUT, SIZE)                                                             \
    extern "C" __global__ void NAME(const TileShape args, const uint *inputs, const float *x, OUT *out) { \
        convert_row(args, inputs, x, 0, 0, CONVERT{out, args.SIZE});                                      \
    }

CONVERSION(quantise_rows, Quantise, uchar, n_tiles)
CONVERSION(split_rows, Split<3>, uchar, n_tiles)
CONVERSION(round_generated_rows, Split<1>, uchar, n_tiles)
CONVERSION(round_rows, Round, ushort, x_rows)

// As it is.
struct Store {
    float *out;
    uint cols;
    MEMBER void operator()(uint row, uint col, float4 v, float scale) const {
        if (col < cols) *(float4 *)(out + ulong(row) * cols + col) = scaled(v, scale);
    }
};
NORM_CONVERSION(store_rows, Store, float, cols)

// Rows of items, each to its place; a block has eight of an item's, or columns of them.
template <typename Convert>
FN void convert_item(const ExpertArgs &args, const float *x, const uint *items, const uint *slots, const Convert &convert) {
    allow_next();
    wait_for_inputs();
    const TileShape &shape = args.gated.shape;
    const uint blocks = (args.each + 7) / 8, i = blockIdx.y / blocks, first = blockIdx.y % blocks * 8;
    const Item item(items, i);
    for (uint r = first; r < min(first + 8, item.n); r++) {
        const uint place = i * args.each + r;
        for_elements(x + ulong(row_in(slots, place, args.divide)) * shape.cols, 0, 1, shape.cols, 64 * shape.n_tiles,
                     blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x,
                     [&](uint col, float4 v, float scale) { convert(place, col, v, scale); });
    }
}

#define ITEM_CONVERSION(NAME, CONVERT, OUT, SIZE)                                                                    \
    extern "C" __global__ void item_##NAME(const ExpertArgs args, const uint *, const float *x, const uint *items,   \
                                           const uint *slots, OUT *out) {                                            \
        convert_item(args, x, items, slots, CONVERT{out, args.gated.shape.SIZE});                                    \
    }

ITEM_CONVERSION(quantise_rows, Quantise, uchar, n_tiles)
ITEM_CONVERSION(split_rows, Split<3>, uchar, n_tiles)
ITEM_CONVERSION(round_generated_rows, Split<1>, uchar, n_tiles)
ITEM_CONVERSION(round_rows, Round, ushort, x_rows)
