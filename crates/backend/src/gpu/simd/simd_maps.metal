// Up to three linear maps of the same rows in one launch, the RMSNorm before them included.
#include "simd_maps.h"

template <typename Format, uint OUTS, uint ROWS>
FN void simd_maps(constant SimdArgs &args, device const uint *inputs, device const float *x,
                  device const float *norm, Map map, uint group_x, uint group_y, Threads t) {
    const uint n_rows = inputs[args.maps.shape.end_at], cols = args.maps.shape.cols;
    const uint first_out = (group_x * (t.count / 32) + t.simdgroup) * OUTS, first_row = group_y * ROWS;
    if (first_out >= map.cols || first_row >= n_rows) return;
    PlainX<ROWS> rows;
    rows.norm = norm;
    rows.has_norm = args.maps.shape.has_norm != 0;
    for (uint r = 0; r < ROWS; r++) {
        // Rows beyond the last repeat it, unwritten.
        const uint row = min(first_row + r, n_rows - 1), gather = args.maps.shape.gather_at;
        rows.rows[r] = x + ulong(gather ? inputs[gather + row] : row) * cols;
        rows.squares[r] = 0;
    }
    map_rows<Format, OUTS, ROWS>(args, map, rows, first_out, first_row, n_rows, t.lane);
}

#define SIMD_MAPS(NAME, FORMAT, OUTS, ROWS)                                                               \
    kernel void NAME(constant SimdArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],      \
                     device const float *x [[buffer(2)]], device const float *norm [[buffer(3)]],         \
                     device const uchar *w0 [[buffer(4)]], device const uchar *w1 [[buffer(5)]],          \
                     device const uchar *w2 [[buffer(6)]], device const float *b0 [[buffer(7)]],          \
                     device const float *b1 [[buffer(8)]], device const float *b2 [[buffer(9)]],          \
                     device float *out0 [[buffer(10)]], device float *out1 [[buffer(11)]],                \
                     device float *out2 [[buffer(12)]], BUILTINS) {                                       \
        Map map = {w0, b0, out0, args.maps.cols0, (args.maps.has_bias & 1) != 0};                         \
        uint first = 0;                                                                                   \
        if (group.x >= args.maps.block2) {                                                                \
            map = Map{w2, b2, out2, args.maps.cols2, (args.maps.has_bias & 4) != 0};                      \
            first = args.maps.block2;                                                                     \
        } else if (group.x >= args.maps.block1) {                                                         \
            map = Map{w1, b1, out1, args.maps.cols1, (args.maps.has_bias & 2) != 0};                      \
            first = args.maps.block1;                                                                     \
        }                                                                                                 \
        simd_maps<FORMAT, OUTS, ROWS>(args, inputs, x, norm, map, group.x - first, group.y, THREADS);     \
    }

// As `simd/mod.rs` has them.
#define SIMD_MAPS_OF(OP, FORMAT, NAME)     \
    SIMD_MAPS(OP##_##NAME##_1, FORMAT, 4, 1) \
    SIMD_MAPS(OP##_##NAME##_4, FORMAT, 4, 4) \
    SIMD_MAPS(OP##_##NAME##_8, FORMAT, 2, 8)

WEIGHT_FORMATS(SIMD_MAPS_OF, simd_maps)
