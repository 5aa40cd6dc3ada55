// Items: rows of one expert that a block multiplies together, as route.cu leaves them.
#ifndef QUARREL_ITEMS_H
#define QUARREL_ITEMS_H

#include "args.h"
#include "cuda.h"

struct Item {
    // Rows, none where there is no such item.
    uint expert, n;
    MEMBER Item(const uint *items, uint i) {
        // Loaded together; there is room for as many as there may be.
        const uint n_items = items[0];
        const uint2 item = *(const uint2 *)(items + 2 + 2 * i);
        expert = item.x, n = i < n_items ? item.y : 0;
    }
};

// The row of `x` that stands in a place: that of a slot, `divide` of which share one, or the place's own.
FN uint row_in(const uint *slots, uint place, uint divide) { return divide ? slots[place] / divide : place; }

#endif
