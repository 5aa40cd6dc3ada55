// Where results of maps of queries, keys and values go: turned with their neighbours, to where attention reads queries, or to
// the cache. For pairs that lie side by side, heads without norms of their own and formats that store each element alone.
#ifndef QUARREL_HEADS_H
#define QUARREL_HEADS_H

#include "known_turns.h"
#include "maps.h"

// What a map's outputs are, as `qkv.rs` has it.
#define IS_QUERY 0
#define IS_KEY 1
#define IS_VALUE 2

// Where an output of a head is.
struct HeadPlace {
    uint kind, head, dim;
    MEMBER HeadPlace(const RopeStoreArgs &rope, uint kind, uint o) : kind(kind) {
        if (kind == IS_VALUE) head = o / rope.v_dim, dim = o % rope.v_dim;
        else head = o / rope.k_dim, dim = o % rope.k_dim;
    }
    MEMBER bool is_turned(const RopeStoreArgs &rope) const { return kind != IS_VALUE && dim < 2 * rope.n_pairs; }
};

// What all of a launch's heads have in common.
struct Heads {
    const QkvTileArgs &args;
    const RopeStoreArgs rope;
    const uint *inputs;
    const float *inv_freq;
    uchar *const k_cache, *const v_cache;
    MEMBER Heads(const QkvTileArgs &args, const uint *inputs, const float *inv_freq, uchar *k_cache, uchar *v_cache)
        : args(args), rope(known_rope(args.rope)), inputs(inputs), inv_freq(inv_freq), k_cache(k_cache), v_cache(v_cache) {}

    // Of output `o` of the map that has `block`.
    MEMBER HeadPlace place(uint block, uint o) const {
        const uint kind = block >= args.maps.block2 ? args.kind2 : block >= args.maps.block1 ? args.kind1 : args.kind0;
        return HeadPlace(rope, kind, o);
    }
    MEMBER Turn turn(uint pair, uint row) const { return turns_of(rope, inputs, inv_freq, row).at(pair); }
    // Where the cache has a row.
    MEMBER uint slot(uint row) const { return inputs[rope.slots_at + row]; }

    // An element and the other one of its pair, which is turned by `turn`.
    MEMBER float turned(const HeadPlace &place, float x, float other, Turn turn) const {
        if (!place.is_turned(rope)) return x;
        return place.dim % 2 == 0 ? x * turn.cosine - other * turn.sine : other * turn.sine + x * turn.cosine;
    }
    // Puts an element of a key or a value where the cache has it.
    MEMBER void store(const HeadPlace &place, uint slot, float x) const {
        if (place.kind == IS_KEY) store(k_cache, rope.k_format, rope.k_dim, place, slot, x);
        else store(v_cache, rope.v_format, rope.v_dim, place, slot, x);
    }
    MEMBER void store(uchar *cache, uint format, uint dims, const HeadPlace &place, uint slot, float x) const {
        const uint size = rope.page_size, bytes = kv_bytes(format, dims);
        store_kv(format, cache + kv_vector(slot / size, slot % size, place.head, rope.n_kv_heads, size, bytes), place.dim, x);
    }
};

#define QKV_PARAMETERS MAP_PARAMETERS, const float *inv_freq, uchar *k_cache, uchar *v_cache

#endif
