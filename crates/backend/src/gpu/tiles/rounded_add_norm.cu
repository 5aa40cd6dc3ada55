// A linear map of generated rows in bfloat16 whose results are added to rows of which a norm follows, for every packing and
// 8 to 64 rows a block: it leaves them as the maps behind the norm take them, as `norm_round_rows` would.
//
// Blocks that share columns have whole rows of these each. So those of all columns that have the same rows wait for each
// other once more, for the sums of squares that a norm needs.
#include "activations.h"
#include "packings.h"
#include "rounded.h"

#if MATRIX_UNIT == 90

// This block's share of the rows.
template <typename R, uint TOKENS> struct RowShare {
    static constexpr uint ROWS = TOKENS / PART_GROUPS, OUTPUTS = 16 * BANDS;
    // The `i`th of them: four that are two apart lie side by side among sums.
    static MEMBER uint row(uint i) {
        i += blockIdx.x % PART_GROUPS * ROWS;
        return i / 8 * 8 + i % 4 * 2 + i / 4 % 2;
    }
    // Calls `write(place, sum, read(place))` for all of their first `n`, where other blocks' sums lie from `total` on.
    template <typename Read, typename Write> static MEMBER void each(uint n, const float *total, const Read &read, const Write &write) {
        if (ROWS >= 8) {
            // A block's share is whole rows.
            return for_share<R, BANDS>(n, OfBlocks<R>{total}, read, write);
        }
        constexpr uint side_by_side = ROWS < 4 ? ROWS : 4;
        for (uint i = threadIdx.x; i < ROWS * OUTPUTS; i += R::THREADS) {
            const uint at = i / side_by_side, row = RowShare::row(at / OUTPUTS * side_by_side + i % side_by_side);
            const uint output = at / 8 % BANDS * 16 + at / (8 * BANDS) % 2 * 8 + at % 8;
            if (row >= n) continue;
            const uint nth = row / 8 * 4 + output / 8 % 2 * 2 + row % 2, thread = output / 16 * 32 + output % 8 * 4 + row % 8 / 2;
            const float *from = total + Chunk<R>::at(nth, thread);
            float sum = 0;
            UNROLL
            for (uint rank = 0; rank < PART_GROUPS; rank++) sum += load_of_block(from + rank * (R::SUMS * R::THREADS));
            write({output, row}, sum, read({output, row}));
        }
    }
};

// What a block's share comes to, where its ring was.
template <typename Own> struct Results {
    // Rows are apart by what spreads them over all banks.
    static constexpr uint STRIDE = Own::OUTPUTS + 4, HALVES = Own::OUTPUTS / 128;
    float *values;
    MEMBER float &at(uint row, uint output) const { return values[row * STRIDE + output]; }
    // Calls `call(row, output, four from there on)` for the first `n` rows; a warp has 128 outputs of one at a time.
    template <typename Call> MEMBER void each(uint n, const Call &call) const {
        for (uint i = own_warp(); i < Own::ROWS * HALVES; i += BANDS) {
            const uint row = Own::row(i / HALVES), output = i % HALVES * 128 + threadIdx.x % 32 * 4;
            if (row < n) call(row, output, *(const float4 *)&at(row, output));
        }
    }
};

// What blocks need of a row that others have.
struct RowSquares {
    // Sums of squares of 128 columns, and how many a row has.
    float *sums;
    uint n;
    MEMBER float &at(uint row, uint nth) const { return sums[ulong(row) * n + nth]; }
    // The sum that a lane has of a row, in the order of `norm_scale`.
    MEMBER float of_lane(uint row) const {
        float sum = 0;
        for (uint nth = threadIdx.x % 32; nth < n; nth += 32) sum += load_of_block(&at(row, nth));
        return sum;
    }
};

// A block's outputs.
template <typename Packing, uint TOKENS>
FN void rounded_add_norm(const AddNormArgs &args, const uint *inputs, const ushort *x, const Outputs &outputs, float *partial,
                         uint *arrived, const float *norm, float *squares, uint *squared, ushort *normalised) {
    typedef Rounded<Packing, TOKENS> R;
    typedef RowShare<R, TOKENS> Own;
    const TileShape &shape = args.maps.shape;
    const BlockRows rows(inputs, shape, TOKENS);
    const Output output(args.maps, outputs, blockIdx.x / PART_GROUPS, BANDS);
    float sums[R::SUMS];
    if (!multiply_map<R, TOKENS>(shape, x, rows, output, sums)) return;
    const float *total = show_sums<R>(partial, arrived, sums, [] {});

    typedef Results<Own> Kept;
    static_assert(TOKENS * Kept::STRIDE * 4 <= R::BARRIERS, "results have room");
    const Kept results = {(float *)ring_memory()};
    const uint first = 16 * output.band;
    auto read = [&](Place place) {
        const uint o = first + place.output;
        return o < output.cols ? output.at(rows.first + place.row, o) : 0;
    };
    auto write = [&](Place place, float sum, float old) {
        const uint o = first + place.output;
        float result = 0;
        if (o < output.cols) result = output.template write<true>(args.maps, rows.first + place.row, o, sum, old);
        results.at(place.row, place.output) = result;
    };
    Own::each(rows.n, total, read, write);
    __syncthreads();

    const uint n_halves = gridDim.x / PART_GROUPS * Kept::HALVES;
    const RowSquares of_rows = {squares + ulong(blockIdx.y * TOKENS) * n_halves, n_halves};
    results.each(rows.n, [&](uint row, uint o, float4 v) {
        const float sum = sum_of_neighbours(sum_of_squares(v));
        if (threadIdx.x % 32 == 0) of_rows.at(row, (first + o) / 128) = sum;
    });
    wait_for_blocks(squared + blockIdx.y * PART_GROUPS + blockIdx.x % PART_GROUPS, gridDim.x / PART_GROUPS, [] {});
    const uint padded = (output.cols + STEP_COLS - 1) / STEP_COLS * STEP_COLS;
    results.each(rows.n, [&](uint row, uint o, float4 v) {
        const float4 weight = load_or_zero(norm, first + o, output.cols);
        const float scale = scale_of_sum(of_rows.of_lane(row), output.cols, args.eps);
        if (first + o < padded) Round{normalised, shape.x_rows}(blockIdx.y * TOKENS + row, first + o, weighted(v, weight), scale);
    });
}

#endif

#define ADD_NORM_KERNEL(OP, PACKING, NAME, TOKENS)                                                                               \
    extern "C" __global__ void ROUNDED_BOUNDS                                                                                    \
        OP##_##NAME##_##TOKENS(const AddNormArgs args, const uint *inputs, const ushort *x, MAP_PARAMETERS, float *partial,      \
                               uint *arrived, const float *norm, float *squares, uint *squared, ushort *normalised) {            \
        MAP_OUTPUTS                                                                                                              \
        ROUNDED_BODY((rounded_add_norm<fragments::PACKING, TOKENS>(args, inputs, x, outputs, partial, arrived, norm, squares,    \
                                                                   squared, normalised)));                                       \
    }

#define ADD_NORM_KERNELS_OF(OP, PACKING, NAME) OF_ROWS(ROUNDED_TOKENS, ADD_NORM_KERNEL, OP, PACKING, NAME)

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(ADD_NORM_KERNELS_OF, rounded_add_norm)
