// Up to three linear maps of the same rows that one launch does.
#ifndef QUARREL_MAPS_H
#define QUARREL_MAPS_H

#include "args.h"
#include "cuda.h"

// One of them, and where its results go.
struct Map {
    const uchar *weight;
    const float *bias;
    float *out;
    uint cols;
    uint has_bias;
};

// The parameters of all entry points.
#define MAP_PARAMS(X)                                                                                       \
    const TileArgs args, const uint *inputs, const X *x, const uchar *weight0, const float *bias0,          \
        float *out0, const uchar *weight1, const float *bias1, float *out1, const uchar *weight2,           \
        const float *bias2, float *out2
#define MAPS                                                                                                \
    Map{weight0, bias0, out0, args.cols0, args.has_bias & 1},                                               \
        Map{weight1, bias1, out1, args.cols1, args.has_bias & 2},                                           \
        Map{weight2, bias2, out2, args.cols2, args.has_bias & 4}

// The map that threadgroup `block` works on; `block` counts from its first then.
FN Map map_of(const TileArgs &args, uint &block, const Map &first, const Map &second, const Map &third) {
    if (block >= args.block2) {
        block -= args.block2;
        return third;
    }
    if (block >= args.block1) {
        block -= args.block1;
        return second;
    }
    return first;
}

#endif
