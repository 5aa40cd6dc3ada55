// What caches hold, four elements at a time. Metal only.
#ifndef QUARREL_CACHE_FOURS_H
#define QUARREL_CACHE_FOURS_H

#include "cache.h"

// Four elements of a vector from `i` on, which it has.
template <typename Kv> struct Four;
template <> struct Four<KvF32> {
    static void load(device const uchar *vector, uint, uint i, thread float *x) {
        const packed_float4 four = *(device const packed_float4 *)(vector + 4 * i);
        UNROLL
        for (uint j = 0; j < 4; j++) x[j] = four[j];
    }
};
template <> struct Four<KvF16> {
    static void load(device const uchar *vector, uint, uint i, thread float *x) {
        const packed_ushort4 four = *(device const packed_ushort4 *)(vector + 2 * i);
        UNROLL
        for (uint j = 0; j < 4; j++) x[j] = half_to_float(four[j]);
    }
};
template <> struct Four<KvBF16> {
    static void load(device const uchar *vector, uint, uint i, thread float *x) {
        const packed_ushort4 four = *(device const packed_ushort4 *)(vector + 2 * i);
        UNROLL
        for (uint j = 0; j < 4; j++) x[j] = bfloat_to_float(four[j]);
    }
};
template <> struct Four<KvQ8_0> {
    static void load(device const uchar *vector, uint dim, uint i, thread float *x) {
        const packed_uchar4 four = *(device const packed_uchar4 *)(vector + i);
        device const uchar *scale = vector + dim + 2 * (i / KV_GROUP);
        const float d = half_to_float(ushort(scale[0] | (uint(scale[1]) << 8)));
        UNROLL
        for (uint j = 0; j < 4; j++) x[j] = float(int(four[j] ^ 128) - 128) * d;
    }
};
template <> struct Four<KvFP8> {
    static void load(device const uchar *vector, uint, uint i, thread float *x) {
        const packed_uchar4 four = *(device const packed_uchar4 *)(vector + i);
        UNROLL
        for (uint j = 0; j < 4; j++) x[j] = fp8_to_float(four[j]);
    }
};

#endif
