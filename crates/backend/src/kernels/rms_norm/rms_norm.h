// Bodies shared by both dialects; one threadgroup a row.
#include "args.h"
#include "normalise.h"

// `out[row] = norm(x[row])`; with `gather_at`, the rows of `x` named there.
FN void rms_norm_row(CONSTANT NormArgs &args, DEVICE const uint *inputs, DEVICE const float *x,
                     DEVICE const float *weight, DEVICE float *out, THREADGROUP float *partial, uint row,
                     Threads t) {
    if (row >= inputs[args.n_rows_at]) return;
    const uint from = args.gather_at ? inputs[args.gather_at + row] : row;
    StoreNorm write = {out + ulong(row) * args.cols};
    normalise(x + ulong(from) * args.cols, weight, args.cols, args.eps, partial, t, write);
}

// `residual[row] += scale * norm(x[row])`.
FN void norm_add_row(CONSTANT NormArgs &args, DEVICE const uint *inputs, DEVICE const float *x,
                     DEVICE const float *weight, DEVICE float *residual, THREADGROUP float *partial, uint row,
                     Threads t) {
    if (row >= inputs[args.n_rows_at]) return;
    AddNorm write = {residual + ulong(row) * args.cols, args.scale};
    normalise(x + ulong(row) * args.cols, weight, args.cols, args.eps, partial, t, write);
}
