// How prompt rows' inputs of linear maps lie in memory: bf16, all rows' first 64
// columns, then all rows' next 64, and so on; `x_rows` rows have room. Within a
// row's 128 bytes columns stand as the matrix units read them from shared memory,
// so that a block's part of a step is one piece that can be copied as it is.
// Rows count from the first prompt row. Columns up to a multiple of 64 must be 0.
#ifndef QUARREL_PROMPT_X_H
#define QUARREL_PROMPT_X_H

#include "dialect.h"

#define STEP_COLS 64u

// Where column `c` of 16 stands in a fragment's slots: of each four columns the even ones are two slots side by
// side, and so the odd ones, since four bits each of bytes that follow each other are unpacked two bytes apart.
FN uint slot_of(uint c) { return c / 4 * 2 + c / 2 % 2 + c % 2 * 8; }

// Where 16-byte chunk `chunk` of a row's 128 bytes stands.
FN uint chunk_place(uint chunk, uint row) { return chunk ^ (row & 7); }

FN ulong prompt_x_at(uint row, uint column, uint x_rows) {
    const uint slot = slot_of(column % 16), chunk = column % STEP_COLS / 16 * 2 + slot / 8;
    return (ulong(column / STEP_COLS) * x_rows + row) * STEP_COLS + chunk_place(chunk, row) * 8 + slot % 8;
}

#endif
