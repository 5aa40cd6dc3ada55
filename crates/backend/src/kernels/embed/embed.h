// The body shared by both dialects; one threadgroup a row.
#include "args.h"
#include "formats.h"

// `out[row] = scale * table[ids[row]]`
template <typename Format>
FN void embed_row(CONSTANT EmbedArgs &args, DEVICE const uint *inputs, DEVICE const uchar *table,
                  DEVICE float *out, uint row, Threads t) {
    if (row >= inputs[args.n_rows_at]) return;
    const uint blocks = args.cols / Format::LEN;
    const uint id = inputs[args.ids_at + row];
    DEVICE const typename Format::Block *from = (DEVICE const typename Format::Block *)table + ulong(id) * blocks;
    for (uint task = t.index; task < blocks * Format::PARTS; task += t.count) {
        const uint block = task / Format::PARTS, part = task % Format::PARTS;
        float w[Format::PART];
        unpack(from + block, part, w);
        DEVICE float *to = out + ulong(row) * args.cols + block * Format::LEN;
        UNROLL
        for (uint i = 0; i < Format::PART; i++) to[Format::place(part, i)] = args.scale * w[i];
    }
}
