// Items: rows of one expert that a block multiplies together, as route.cu leaves them.
#ifndef QUARREL_ITEMS_H
#define QUARREL_ITEMS_H

#include "args.h"
#include "cuda.h"

struct Item {
    // Rows, none where there is no such item.
    uint expert, n;
    MEMBER Item(const uint *items, uint i) : expert(0), n(0) {
        if (i < items[0]) expert = items[2 + 2 * i], n = items[3 + 2 * i];
    }
};

// The row of `x` that stands in a place: that of a slot, `divide` of which share one, or the place's own.
FN uint row_in(const uint *slots, uint place, uint divide) { return divide ? slots[place] / divide : place; }

#endif
