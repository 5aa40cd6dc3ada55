// Linear maps of prompt rows by Metal 4's tensor operations, of macOS 26.
//
// Limited by operations, as `simd_prompts.h` says: what is multiplied and what it becomes first is the same, and
// so are tiles, but for their order in memory: each row's columns follow each other. What multiplies two tiles
// is Apple's, for whatever the GPU has for it, by all four SIMD-groups together, which keep sums of 64 rows and
// 64 outputs in registers, 32 a thread. Of the pairs of types that Apple documents, weights are halves and
// activations floats, or both floats where weights are plain floats or BF16.
//
// Written from the comments of Apple's public header; docs/metal.md says what was shown of it.
#ifndef QUARREL_TENSOR_PROMPTS_H
#define QUARREL_TENSOR_PROMPTS_H

#include "simd_prompts.h"

// What activations and weights of a format become, and where a run of a row begins in its tile.
template <typename Format> struct TensorTiles {
    typedef FloatTiles X;
    typedef HalfTiles W;
    static uint place(uint row, uint run) { return row * TILE_COLS + run * SIDE; }
};
template <> struct TensorTiles<F32> : TensorTiles<void> {
    typedef FloatTiles W;
};
template <> struct TensorTiles<BF16> : TensorTiles<void> {
    typedef FloatTiles W;
};

// The threadgroup's memory, in floats: tiles or, later, results, and sums of squares, two a row.
template <typename Format> struct TensorMemory {
    enum {
        X_FLOATS = TILE * TILE_COLS * TensorTiles<Format>::X::BYTES / 4,
        W_FLOATS = TILE * TILE_COLS * TensorTiles<Format>::W::BYTES / 4,
        RESULT_FLOATS = TILE * TILE,
    };
    enum {
        SQUARES_AT = X_FLOATS + W_FLOATS > RESULT_FLOATS ? X_FLOATS + W_FLOATS : RESULT_FLOATS,
        FLOATS = SQUARES_AT + 2 * TILE,
    };
};

// A tile as the operation takes it; extents are columns first.
template <typename T> struct Tile {
    typedef tensor<threadgroup T, dextents<int, 2>, tensor_inline> Tensor;
};

// A threadgroup's 64 rows, the `group_y`th of prompts, of 64 outputs, the `group_x`th of the map.
template <typename Format>
FN void tensor_rows(constant SimdArgs &args, device const uint *inputs, device const float *x,
                    device const float *norm, Map map, threadgroup float *memory, uint group_x, uint group_y,
                    Threads t) {
    typedef typename TensorTiles<Format>::X::Element XElement;
    typedef typename TensorTiles<Format>::W::Element WElement;
    typedef typename Tile<XElement>::Tensor XTile;
    typedef typename Tile<WElement>::Tensor WTile;
    const uint cols = args.maps.shape.cols, end = inputs[args.maps.shape.end_at];
    const uint first_row = inputs[args.maps.shape.first_at] + group_y * TILE, first_out = group_x * TILE;
    if (first_row >= end) return;
    threadgroup XElement *x_memory = (threadgroup XElement *)memory;
    threadgroup WElement *w_memory = (threadgroup WElement *)(memory + TensorMemory<Format>::X_FLOATS);
    XTile x_tile(x_memory, dextents<int, 2>(TILE_COLS, TILE));
    WTile w_tile(w_memory, dextents<int, 2>(TILE_COLS, TILE));

    // Rows of 32 columns by outputs of 32 columns, the latter transposed; nothing is rounded that need not be.
    constexpr auto products = mpp::tensor_ops::matmul2d_descriptor(
        TILE, TILE, TILE_COLS, false, true, false, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
    mpp::tensor_ops::matmul2d<products, execution_simdgroups<PROMPT_SIMDGROUPS>> multiply;
    auto sums = multiply.template get_destination_cooperative_tensor<XTile, WTile, float>();
    for (ushort i = 0; i < sums.get_capacity(); i++) {
        if (sums.is_valid_element(i)) sums[i] = 0;
    }

    PromptRow row = find_row(args, x, norm, first_row, end, t);
    device const uchar *weight = find_output<Format>(args, map, first_out, t);
    for (uint step = 0; step * TILE_COLS < cols; step++) {
        // What is there has been read.
        group_barrier();
        fill_tiles<Format, TensorTiles<Format>>(weight, row, cols, step, x_memory, w_memory, t);
        group_barrier();
        multiply.run(x_tile, w_tile, sums);
    }
    group_barrier();
    typename Tile<float>::Tensor results(memory, dextents<int, 2>(TILE, TILE));
    sums.store(results);
    threadgroup float *squares = memory + TensorMemory<Format>::SQUARES_AT;
    squares[t.index] = row.squares;
    group_barrier();
    // Half of the rows for each half of the threads.
    const uint out = t.index % TILE;
    for (uint r = t.index / TILE; r < TILE; r += 2) {
        if (first_row + r >= end || first_out + out >= map.cols) continue;
        const float factor = norm_factor(args, squares + 2 * r);
        write_sum(args, map, first_row + r, first_out + out, memory[r * TILE + out] * factor);
    }
}

#endif
