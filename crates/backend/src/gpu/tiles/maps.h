// Up to three linear maps of the same rows that one launch does.
#ifndef QUARREL_MAPS_H
#define QUARREL_MAPS_H

#include "args.h"
#include "cuda.h"

// Up to three maps of the same rows, as blocks find them: each starts at a block of its own.
struct Outputs {
    const uchar *weight[3];
    const float *bias[3];
    float *out[3];
};

// One of them.
struct Output {
    const uchar *weight;
    const float *bias;
    float *out;
    uint cols, band;
    MEMBER Output(const TileArgs &args, const Outputs &all, uint block, uint bands) {
        if (block >= args.block2) {
            weight = all.weight[2], bias = args.has_bias & 4 ? all.bias[2] : 0, out = all.out[2];
            cols = args.cols2, band = (block - args.block2) * bands;
        } else if (block >= args.block1) {
            weight = all.weight[1], bias = args.has_bias & 2 ? all.bias[1] : 0, out = all.out[1];
            cols = args.cols1, band = (block - args.block1) * bands;
        } else {
            weight = all.weight[0], bias = args.has_bias & 1 ? all.bias[0] : 0, out = all.out[0];
            cols = args.cols0, band = block * bands;
        }
    }

    // `out = cap(scale * (sum + bias))`, a cap of 0 is none; or, to ADD, `out += scale * (sum + bias)`.
    template <bool ADD> MEMBER void write(const TileArgs &args, uint row, uint o, float sum) const {
        write<ADD>(args, row, o, sum, ADD ? at(row, o) : 0);
    }

    // The same where what is there is `old`; what is there then.
    template <bool ADD> MEMBER float write(const TileArgs &args, uint row, uint o, float sum, float old) const {
        if (bias) sum += bias[o];
        float value = ADD ? fmaf(args.scale, sum, old) : args.scale * sum;
        if (!ADD && args.softcap > 0) value = args.softcap * exact_tanh(value / args.softcap);
        return at(row, o) = value;
    }

    MEMBER float &at(uint row, uint o) const { return out[ulong(row) * cols + o]; }
};

// The parameters of entry points that name them.
#define MAP_PARAMETERS                                                                               \
    const uchar *weight0, const float *bias0, float *out0, const uchar *weight1, const float *bias1, \
        float *out1, const uchar *weight2, const float *bias2, float *out2
#define MAP_OUTPUTS \
    const Outputs outputs = {{weight0, weight1, weight2}, {bias0, bias1, bias2}, {out0, out1, out2}};

#endif
