// Where the tiles of a band lie. Those of most packings stand alone; of others four in a row share what
// lies behind the elements of all, and kernels that take a tile at a time copy that with each.
#ifndef QUARREL_PLACES_H
#define QUARREL_PLACES_H

#include "cuda.h"

struct TileAt {
    const uchar *tile;
    const uchar *shared;  // what it shares with its neighbours, of which it is the `nth`
    uint nth;
};

// Tiles that share SHARED bytes, and how many do. APART: sums of tiles that are multiplied together are, too.
struct Alone { enum { TOGETHER = 1, SHARED = 0, APART = 0 }; };
struct ByFour { enum { TOGETHER = 4, SHARED = 256 }; };

// Tiles of P::BYTES each on average.
template <typename P> struct Placed {
    enum { OWN = P::BYTES - P::SHARED / P::TOGETHER, COPIED = OWN + P::SHARED };
    // Tile `i` of a run of them that does not begin between neighbours.
    static MEMBER TileAt of(const uchar *run, uint i) {
        const uchar *first = run + i / P::TOGETHER * (P::TOGETHER * P::BYTES);
        return {first + i % P::TOGETHER * OWN, first + P::TOGETHER * OWN, i % P::TOGETHER};
    }
    // The same where it was copied alone, what it shares behind it.
    static MEMBER TileAt copied(const uchar *tile, uint i) { return {tile, tile + OWN, i % P::TOGETHER}; }
};

#endif
