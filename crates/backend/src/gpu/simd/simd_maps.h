// Linear maps of few rows on Metal: every SIMD-group makes OUTS outputs of up to ROWS
// rows, and its lanes share the columns, sixteen each in turn (weight_parts.h).
//
// A row's sum is taken in the same order whatever OUTS and ROWS are and whatever rows
// stand beside it: a lane's parts, run by run, then the lanes. What is done to rows
// before (`X`) and to results after is part of the same launch.
#ifndef QUARREL_SIMD_MAPS_H
#define QUARREL_SIMD_MAPS_H

#include "args.h"
#include "weight_parts.h"

// As `simd/mod.rs` has it.
struct SimdArgs {
    TileArgs maps;
    uint add;
    uint gelu_tanh;
};

// Columns that a SIMD-group's lanes read in one turn.
#define CHUNK 512

// Eight floats from memory that both kinds of rows have.
FN void load_eight(device const float *from, thread float *values) {
    device const packed_float4 *fours = (device const packed_float4 *)from;
    const packed_float4 a = fours[0], b = fours[1];
    UNROLL
    for (uint i = 0; i < 4; i++) values[i] = a[i], values[i + 4] = b[i];
}

// Rows as they are, or those of an RMSNorm: its factor, common to a row, multiplies the
// results, and the squares for it are added up on the way.
template <uint ROWS> struct PlainX {
    device const float *rows[ROWS];
    device const float *norm;
    bool has_norm;
    float squares[ROWS];

    void stage(uint) {}
    void load(uint r, uint col, thread float *values) {
        load_eight(rows[r] + col, values);
        if (!has_norm) return;
        float factors[8];
        load_eight(norm + col, factors);
        UNROLL
        for (uint i = 0; i < 8; i++) {
            squares[r] = multiply_add(values[i], values[i], squares[r]);
            values[i] *= factors[i];
        }
    }
    float one(uint r, uint col) {
        const float value = rows[r][col];
        if (!has_norm) return value;
        squares[r] = multiply_add(value, value, squares[r]);
        return value * norm[col];
    }
    float factor(uint r, uint cols, float eps) {
        if (!has_norm) return 1;
        return 1.0f / exact_sqrt(simd_sum(squares[r]) / float(cols) + eps);
    }
};

// One lane's share of the sums.
template <typename Format, uint OUTS, uint ROWS, typename X>
FN void add_dots(device const uchar *weight, uint cols, thread const uint *outs, thread X &x, uint lane,
                 thread float (*sums)[ROWS]) {
    typedef Part<Format> P;
    typedef typename Format::Block Block;
    const ulong row_blocks = cols / Format::LEN;
    device const Block *blocks = (device const Block *)weight;
    for (uint chunk = 0; chunk * CHUNK < cols; chunk++) {
        x.stage(chunk);
        const uint task = chunk * 32 + lane;
        if (task >= cols / P::LEN * P::PARTS) continue;
        const uint unit = task / P::PARTS, part = task % P::PARTS;
        UNROLL
        for (uint run = 0; run < 2; run++) {
            float values[ROWS][8], total[ROWS];
            UNROLL
            for (uint r = 0; r < ROWS; r++) {
                x.load(r, unit * P::LEN + P::place(part) + run * P::DISTANCE, values[r]);
                total[r] = 0;
                UNROLL
                for (uint i = 0; i < 8; i++) total[r] += values[r][i];
            }
            UNROLL
            for (uint o = 0; o < OUTS; o++) {
                float w[8];
                device const Block *block = blocks + outs[o] * row_blocks + unit * (P::LEN / Format::LEN);
                const Common common = P::weights(block, part, run, w);
                UNROLL
                for (uint r = 0; r < ROWS; r++) {
                    float sum = P::SCALED ? 0 : sums[o][r];
                    UNROLL
                    for (uint i = 0; i < 8; i++) sum = multiply_add(w[i], values[r][i], sum);
                    if (P::SCALED) {
                        sum = multiply_add(common.scale, sum, multiply_add(common.offset, total[r], sums[o][r]));
                    }
                    sums[o][r] = sum;
                }
            }
        }
    }
}

// Columns behind the last sixteen, which only plain floats have; a lane each.
template <typename Format, bool HAS> struct Rest {
    template <uint OUTS, uint ROWS, typename X>
    static void add(device const uchar *, uint, thread const uint *, thread X &, uint, thread float (*)[ROWS]) {}
};
template <typename Format> struct Rest<Format, true> {
    template <uint OUTS, uint ROWS, typename X>
    static void add(device const uchar *weight, uint cols, thread const uint *outs, thread X &x, uint lane,
                    thread float (*sums)[ROWS]) {
        const uint col = cols / 16 * 16 + lane;
        if (col >= cols) return;
        device const typename Format::Block *elements = (device const typename Format::Block *)weight;
        for (uint r = 0; r < ROWS; r++) {
            const float value = x.one(r, col);
            for (uint o = 0; o < OUTS; o++) {
                const float w = Part<Format>::one(elements + ulong(outs[o]) * cols + col);
                sums[o][r] = multiply_add(w, value, sums[o][r]);
            }
        }
    }
};

// One of the maps of a launch.
struct Map {
    device const uchar *weight;
    device const float *bias;
    device float *out;
    uint cols;
    bool has_bias;
    uint end;  // behind the last output that is made here
};

// The buffers of a launch of up to three maps, and the one whose outputs a threadgroup makes; `GROUP` becomes
// its place among the map's.
#define MAP_BUFFERS(ARGS, NAME)                                                                           \
    constant ARGS &NAME [[buffer(0)]], device const uint *inputs [[buffer(1)]],                           \
        device const float *x [[buffer(2)]], device const float *norm [[buffer(3)]],                      \
        device const uchar *w0 [[buffer(4)]], device const uchar *w1 [[buffer(5)]],                       \
        device const uchar *w2 [[buffer(6)]], device const float *b0 [[buffer(7)]],                       \
        device const float *b1 [[buffer(8)]], device const float *b2 [[buffer(9)]],                       \
        device float *out0 [[buffer(10)]], device float *out1 [[buffer(11)]],                             \
        device float *out2 [[buffer(12)]]
#define PICK_MAP(GROUP)                                                                                   \
    pick_map(args.maps, Map{w0, b0, out0, args.maps.cols0, (args.maps.has_bias & 1) != 0, args.maps.cols0},\
             Map{w1, b1, out1, args.maps.cols1, (args.maps.has_bias & 2) != 0, args.maps.cols1},          \
             Map{w2, b2, out2, args.maps.cols2, (args.maps.has_bias & 4) != 0, args.maps.cols2}, GROUP)

FN Map pick_map(constant TileArgs &args, Map first, Map second, Map third, thread uint &group) {
    if (group >= args.block2) {
        group -= args.block2;
        return third;
    }
    if (group >= args.block1) {
        group -= args.block1;
        return second;
    }
    return first;
}

// `out = cap(scale * (sum + bias))`, or that added to it.
FN void write_sum(constant SimdArgs &args, Map map, uint row, uint o, float sum) {
    device float *to = map.out + ulong(row) * map.cols + o;
    if (map.has_bias) sum += map.bias[o];
    if (args.add) {
        *to = multiply_add(args.maps.scale, sum, *to);
        return;
    }
    const float scaled = args.maps.scale * sum, cap = args.maps.softcap;
    *to = cap > 0 ? cap * exact_tanh(scaled / cap) : scaled;
}

// The SIMD-group's outputs, from `first_out` on; `rows` are those that `x` reads, of which
// as many as `n_rows` are wanted.
template <typename Format, uint OUTS, uint ROWS, typename X>
FN void map_rows(constant SimdArgs &args, Map map, thread X &x, uint first_out, uint first_row, uint n_rows,
                 uint lane) {
    uint outs[OUTS];
    float sums[OUTS][ROWS];
    for (uint o = 0; o < OUTS; o++) {
        outs[o] = min(first_out + o, map.end - 1);
        for (uint r = 0; r < ROWS; r++) sums[o][r] = 0;
    }
    const uint cols = args.maps.shape.cols;
    add_dots<Format, OUTS, ROWS>(map.weight, cols, outs, x, lane, sums);
    Rest<Format, Format::LEN == 1>::template add<OUTS, ROWS>(map.weight, cols, outs, x, lane, sums);
    UNROLL
    for (uint r = 0; r < ROWS; r++) {
        const float factor = x.factor(r, cols, args.maps.shape.eps);
        UNROLL
        for (uint o = 0; o < OUTS; o++) {
            const float sum = simd_sum(sums[o][r]);
            const bool wanted = first_out + o < map.end && first_row + r < n_rows;
            if (lane == 0 && wanted) write_sum(args, map, first_row + r, outs[o], factor * sum);
        }
    }
}

// The same of rows that are as they are or go through a norm, from `first_row` on.
template <typename Format, uint OUTS, uint ROWS>
FN void map_plain_rows(constant SimdArgs &args, device const uint *inputs, device const float *x,
                       device const float *norm, Map map, uint first_out, uint first_row, uint lane) {
    const uint n_rows = inputs[args.maps.shape.end_at], cols = args.maps.shape.cols;
    if (first_out >= map.end || first_row >= n_rows) return;
    PlainX<ROWS> rows;
    rows.norm = norm;
    rows.has_norm = args.maps.shape.has_norm != 0;
    for (uint r = 0; r < ROWS; r++) {
        // Rows beyond the last repeat it, unwritten.
        const uint row = min(first_row + r, n_rows - 1), gather = args.maps.shape.gather_at;
        rows.rows[r] = x + ulong(gather ? inputs[gather + row] : row) * cols;
        rows.squares[r] = 0;
    }
    map_rows<Format, OUTS, ROWS>(args, map, rows, first_out, first_row, n_rows, lane);
}

#endif
