// The KV cache: how an element is stored, and where a position's vector lies.
#ifndef QUARREL_CACHE_H
#define QUARREL_CACHE_H

#include "args.h"
#include "dialect.h"

// `KvFormat` of the host, in its order.
#define KV_F32 0
#define KV_F16 1
#define KV_BF16 2

struct KvF32 {
    typedef float Element;
    static MEMBER float load(DEVICE const Element *from) { return *from; }
};
struct KvF16 {
    typedef ushort Element;
    static MEMBER float load(DEVICE const Element *from) { return half_to_float(*from); }
};
struct KvBF16 {
    typedef ushort Element;
    static MEMBER float load(DEVICE const Element *from) { return bfloat_to_float(*from); }
};

FN void store_kv(uint format, DEVICE uchar *cache, ulong at, float value) {
    if (format == KV_F32) ((DEVICE float *)cache)[at] = value;
    else if (format == KV_F16) ((DEVICE ushort *)cache)[at] = float_to_half(value);
    else ((DEVICE ushort *)cache)[at] = float_to_bfloat(value);
}

// The index of the first element of `head`'s vector at `offset` in `page`;
// arrays are [n_pages, n_kv_heads, page_size, dim].
FN ulong kv_index(uint page, uint offset, uint head, uint n_kv_heads, uint page_size, uint dim) {
    return ((ulong(page) * n_kv_heads + head) * page_size + offset) * dim;
}

#endif
