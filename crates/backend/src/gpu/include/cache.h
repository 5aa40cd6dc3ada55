// The KV cache: how an element is stored, and where a position's vector lies.
#ifndef QUARREL_CACHE_H
#define QUARREL_CACHE_H

#include "args.h"
#include "dialect.h"

// `KvFormat` of the host, in its order.
#define KV_F32 0
#define KV_F16 1
#define KV_BF16 2
#define KV_Q8_0 3
#define KV_FP8 4

// Elements of Q8_0 that share a scale.
#define KV_GROUP 32

// E4M3 has an IEEE half's fields, two zero bits of exponent and seven of fraction more or less;
// so the half is 2^-8 of the number.
FN float fp8_to_float(uchar bits) {
    return half_to_float(ushort((uint(bits & 0x80) << 8) | (uint(bits & 0x7f) << 7))) * 256.0f;
}

// The nearest, ties to even, within ±448; NaN becomes 0x7f.
FN uchar float_to_fp8(float x) {
    const uint bits = bits_of_float(x), sign = (bits >> 24) & 0x80, magnitude = bits & 0x7fffffff;
    if (x != x) return uchar(sign | 0x7f);
    // Below 1/64, the smallest normal number, eighths of it.
    if (magnitude < 0x3c800000) return uchar(sign | uint(nearest_even(float_of_bits(magnitude) * 512.0f)));
    const uint rounded = ((magnitude + 0x7ffff + ((magnitude >> 20) & 1)) >> 20) - (120 << 3);
    return uchar(sign | min(rounded, 0x7eu));
}

// Each format: the bytes of a head's vector, and its element `i` of `dim`.
struct KvF32 {
    static MEMBER uint bytes(uint dim) { return 4 * dim; }
    static MEMBER float load(DEVICE const uchar *vector, uint dim, uint i) {
        return ((DEVICE const float *)vector)[i];
    }
};
struct KvF16 {
    static MEMBER uint bytes(uint dim) { return 2 * dim; }
    static MEMBER float load(DEVICE const uchar *vector, uint dim, uint i) {
        return half_to_float(((DEVICE const ushort *)vector)[i]);
    }
};
struct KvBF16 {
    static MEMBER uint bytes(uint dim) { return 2 * dim; }
    static MEMBER float load(DEVICE const uchar *vector, uint dim, uint i) {
        return bfloat_to_float(((DEVICE const ushort *)vector)[i]);
    }
};
// Signed bytes, then a half for each 32 of them. Scales of heads with an odd
// number of elements lie at odd places, so they are read in bytes.
struct KvQ8_0 {
    static MEMBER uint bytes(uint dim) { return dim + 2 * ((dim + KV_GROUP - 1) / KV_GROUP); }
    static MEMBER float load(DEVICE const uchar *vector, uint dim, uint i) {
        DEVICE const uchar *scale = vector + dim + 2 * (i / KV_GROUP);
        const int quant = int(vector[i] ^ 128) - 128;
        return float(quant) * half_to_float(ushort(scale[0] | (uint(scale[1]) << 8)));
    }
};
struct KvFP8 {
    static MEMBER uint bytes(uint dim) { return dim; }
    static MEMBER float load(DEVICE const uchar *vector, uint dim, uint i) { return fp8_to_float(vector[i]); }
};

FN uint kv_bytes(uint format, uint dim) {
    if (format == KV_F32) return KvF32::bytes(dim);
    if (format == KV_Q8_0) return KvQ8_0::bytes(dim);
    return format == KV_FP8 ? dim : 2 * dim;
}

// Stores an element in a format that stores each on its own.
FN void store_kv(uint format, DEVICE uchar *vector, uint i, float value) {
    if (format == KV_F32) ((DEVICE float *)vector)[i] = value;
    else if (format == KV_F16) ((DEVICE ushort *)vector)[i] = float_to_half(value);
    else if (format == KV_BF16) ((DEVICE ushort *)vector)[i] = float_to_bfloat(value);
    else vector[i] = float_to_fp8(value);
}

// Stores a vector as Q8_0: one SIMD-group, all of whose lanes come here.
FN void store_q8_0(DEVICE uchar *vector, DEVICE const float *x, uint dim, uint lane) {
    for (uint first = 0; first < dim; first += KV_GROUP) {
        const bool exists = first + lane < dim;
        const float value = exists ? x[first + lane] : 0;
        const bool is_nan = value != value;
        const float magnitude = float_of_bits(bits_of_float(value) & 0x7fffffff);
        const float largest = simd_max(is_nan ? 0 : magnitude);
        const bool has_nan = simd_max(is_nan ? 1u : 0u) > 0;
        const ushort scale = has_nan ? ushort(0x7e00) : float_to_half(largest / 127.0f);
        const float rounded = half_to_float(scale), inverse = rounded > 0 ? 1.0f / rounded : 0;
        // The scale was rounded, so that the largest may be a little over 127.
        const float product = value * inverse;
        const float quant = product == product ? larger(-127.0f, -larger(-127.0f, -nearest_even(product))) : 0;
        if (exists) vector[first + lane] = uchar(int(quant));
        if (lane < 2) vector[dim + 2 * (first / KV_GROUP) + lane] = uchar(scale >> (8 * lane));
    }
}

// The first byte of `head`'s vector at `offset` in `page`; arrays are
// [n_pages, n_kv_heads, page_size] of vectors of `bytes`.
FN ulong kv_vector(uint page, uint offset, uint head, uint n_kv_heads, uint page_size, uint bytes) {
    return ((ulong(page) * n_kv_heads + head) * page_size + offset) * bytes;
}

#endif
