// The gated activation with the linear map that follows: a threadgroup's SIMD-groups share what the
// activation makes of some columns, and go on to the next together.
#include "gated_rows.h"

template <typename Format, uint OUTS, uint ROWS>
FN void simd_gated(constant SimdArgs &args, device const uint *inputs, device const float *gate,
                   device const float *up, threadgroup float *values, Map map, uint group_x, uint group_y,
                   Threads t) {
    const uint n_rows = inputs[args.maps.shape.end_at];
    const uint first_out = (group_x * (t.count / 32) + t.simdgroup) * OUTS, first_row = group_y * ROWS;
    // The whole threadgroup; SIMD-groups without outputs stay for the barriers.
    if (first_row >= n_rows) return;
    GatedX<ROWS> x;
    x.gate = gate, x.up = up, x.values = values;
    x.cols = args.maps.shape.cols, x.gelu_tanh = args.gelu_tanh;
    x.t = t;
    for (uint r = 0; r < ROWS; r++) x.rows[r] = min(first_row + r, n_rows - 1);
    map_rows<Format, OUTS, ROWS>(args, map, x, first_out, first_row, n_rows, t.lane);
}

#define SIMD_GATED(NAME, FORMAT, OUTS, ROWS)                                                              \
    kernel void NAME(constant SimdArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],      \
                     device const float *gate [[buffer(2)]], device const float *up [[buffer(3)]],        \
                     device const uchar *weight [[buffer(4)]], device const float *bias [[buffer(5)]],    \
                     device float *out [[buffer(6)]], BUILTINS) {                                         \
        threadgroup float values[CHUNK * ROWS];                                                           \
        const Map map = {weight, bias, out, args.maps.cols0, args.maps.has_bias != 0, args.maps.cols0};   \
        simd_gated<FORMAT, OUTS, ROWS>(args, inputs, gate, up, values, map, group.x, group.y, THREADS);   \
    }

// As `simd/mod.rs` has them.
#define SIMD_GATED_OF(OP, FORMAT, NAME)     \
    SIMD_GATED(OP##_##NAME##_1, FORMAT, 4, 1) \
    SIMD_GATED(OP##_##NAME##_4, FORMAT, 4, 4) \
    SIMD_GATED(OP##_##NAME##_8, FORMAT, 2, 8)

WEIGHT_FORMATS(SIMD_GATED_OF, simd_gated)
