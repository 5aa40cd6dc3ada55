// What stands around products of prompt rows by the driver's own library: limited by bytes, of a weight as
// floats above all, which are written and read again.
#include "simd_prompts.h"

#include "normalise.h"

// As `simd/products.rs` has it.
struct WeightArgs {
    uint cols;
    uint outs;
};

// A weight as floats, row by row: a thread unpacks sixteen columns.
template <typename Format>
FN void write_floats(constant WeightArgs &args, device const uchar *weight, device float *out, uint task) {
    const uint parts = (args.cols + 15) / 16, row = task / parts;
    if (row >= args.outs) return;
    const Columns columns = find_columns<Format>(task % parts, args.cols);
    const ulong row_bytes = ulong(args.cols / Format::LEN) * sizeof(typename Format::Block);
    out += ulong(row) * args.cols;
    UNROLL
    for (uint run = 0; run < 2; run++) {
        float w[SIDE];
        WeightRun<Format, Format::LEN == 1>::load(weight + row * row_bytes, columns, run, w);
        const uint col = first_column<Format>(columns, run), n = columns.behind(col);
        for (uint i = 0; i < n; i++) out[col + i] = w[i];
    }
}

// No kernel of floats needs the inputs; they are the first buffer of every launch.
#define SIMD_PRODUCTS(OP, FORMAT, NAME)                                                                   \
    kernel void OP##_##NAME(constant WeightArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],\
                            device const uchar *weight [[buffer(2)]], device float *out [[buffer(3)]],    \
                            BUILTINS) {                                                                   \
        write_floats<FORMAT>(args, weight, out, group.x * group_size.x + thread_index);                   \
    }

WEIGHT_FORMATS(SIMD_PRODUCTS, simd_products)

// A threadgroup a row.
kernel void normalise_prompts(constant SimdArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                              device const float *x [[buffer(2)]], device const float *norm [[buffer(3)]],
                              device float *out [[buffer(4)]], BUILTINS) {
    threadgroup float partial[MAX_SIMDGROUPS];
    const uint cols = args.maps.shape.cols;
    const ulong first = ulong(inputs[args.maps.shape.first_at] + group.y) * cols;
    const StoreNorm write = {out + first};
    normalise(x + first, norm, cols, args.maps.shape.eps, partial, THREADS, write);
}

// What a library could not add.
kernel void add_product(constant SimdArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                        device const float *product [[buffer(2)]], device float *out [[buffer(3)]], BUILTINS) {
    const uint col = group.x * group_size.x + thread_index, cols = args.maps.cols0;
    if (col >= cols) return;
    const ulong at = ulong(inputs[args.maps.shape.first_at] + group.y) * cols + col;
    out[at] += product[at];
}

kernel void add_bias(constant SimdArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                     device const float *bias [[buffer(2)]], device float *out [[buffer(3)]], BUILTINS) {
    const uint col = group.x * group_size.x + thread_index, cols = args.maps.cols0;
    if (col >= cols) return;
    device float *to = out + ulong(inputs[args.maps.shape.first_at] + group.y) * cols + col;
    *to = multiply_add(args.maps.scale, bias[col], *to);
}
