// Looking up embeddings in a table of tiles; as many blocks a row as have a part of its columns, so that a single row does not wait
// for memory again and again.
#include "args.h"
#include "cuda.h"
#include "packings.h"
#include "places.h"

FN float number_at(const uchar *tile, uint bytes, uint i) { return half_to_float(((const ushort *)(tile + bytes))[i]); }

// Element (row, col) of a tile, for each packing.
struct Place {
    uint g, upper, block, half, t, j;
    MEMBER uint lane() const { return 4 * g + t; }
};

struct Element2 : Alone {
    enum { BYTES = 512 };
    static MEMBER float at(TileAt from, Place p) {
        const uint group = 2 * p.block + p.half, i = 16 * p.g + 2 * group + p.upper;
        const uint q = from.tile[8 * p.lane() + 4 * p.upper + p.j] >> (2 * group) & 3;
        return number_at(from.tile, 256, i) * float(q) + number_at(from.tile, 256, i + 8);
    }
};

// Four to six bits, and where scales are those of 16 columns: SHORT.
template <uint BITS, bool AFFINE, bool SHORT> struct ElementBits : Alone {
    enum { SCALES_AT = 128 * BITS, BYTES = SCALES_AT + (AFFINE || SHORT ? 128 : 64) };
    static MEMBER float at(TileAt from, Place p) {
        const uint word = 4 * p.block + 2 * p.half + p.upper;
        uint q = from.tile[16 * p.lane() + 8 * p.block + 4 * p.upper + p.j] >> (4 * p.half) & 15;
        if (BITS == 5) q |= (from.tile[512 + 4 * p.lane() + p.j] >> (7 - word) & 1) << 4;
        if (BITS == 6) q |= (from.tile[512 + 8 * p.lane() + 4 * p.block + p.j] >> (6 - 2 * (word % 4)) & 3) << 4;
        const uint group = SHORT ? 2 * p.block + p.half : p.block;
        const uint i = (AFFINE || SHORT ? 8 : 4) * p.g + 2 * group + p.upper, sign = 1 << (BITS - 1);
        const float d = number_at(from.tile, SCALES_AT, i);
        return AFFINE ? d * float(q) + number_at(from.tile, SCALES_AT, i + 4) : d * float(int(q ^ sign) - int(sign));
    }
};

struct ElementMultiples : ByFour {
    enum { BYTES = 576 };
    static MEMBER float at(TileAt from, Place p) {
        const uint q = from.tile[16 * p.lane() + 8 * p.block + 4 * p.upper + p.j] >> (4 * p.half) & 15;
        const uchar *own = from.shared + 32 * p.g;
        const uint i = 2 * p.block + p.upper, low = own[4 * from.nth + i];
        const uint high = own[16 + from.nth / 2 * 4 + i] >> (from.nth % 2 * 4);
        const uint scale = (low & 15) | (high & 3) << 4, offset = low >> 4 | (high >> 2 & 3) << 4;
        return number_at(own, 24, p.upper) * float(scale) * float(q) + number_at(own, 28, p.upper) * float(offset);
    }
};

struct Element8 : Alone {
    enum { BYTES = 1088 };
    static MEMBER float at(TileAt from, Place p) {
        const int q = (signed char)from.tile[512 * p.block + 16 * p.lane() + 8 * p.half + 4 * p.upper + p.j];
        return number_at(from.tile, 1024, 4 * p.g + 2 * p.block + p.upper) * float(q);
    }
};

struct Element16 : Alone {
    enum { BYTES = 2048 };
    static MEMBER float at(TileAt from, Place p) {
        const uint k = 2 * p.block + p.half;
        const uint at = 512 * k + 16 * p.lane() + 8 * (p.j % 2) + 4 * p.upper + 2 * (p.j / 2);
        return bfloat_to_float(*(const ushort *)(from.tile + at));
    }
};

typedef Element2 P2A;
typedef ElementBits<4, false, false> P4;
typedef ElementBits<4, true, false> P4A;
typedef ElementMultiples P4K;
typedef ElementBits<4, false, true> P4S;
typedef ElementBits<5, false, false> P5;
typedef ElementBits<5, true, false> P5A;
typedef ElementBits<6, false, true> P6S;
typedef Element8 P8;
typedef Element16 P16;

// Columns of a thread, all of which it asks for before it waits for any; the host counts blocks as this does.
constexpr uint EACH = 4;

// `out[row] = scale * table[ids[row]]`
template <typename Element>
FN void embed_row(const EmbedArgs &args, const uint *inputs, const uchar *table, float *out) {
    allow_next();
    wait_for_inputs();
    const uint row = blockIdx.y;
    if (row >= inputs[args.n_rows_at]) return;
    const uint id = inputs[args.ids_at + row], n_tiles = (args.cols + 63) / 64;
    const uint first = blockIdx.x * EACH * blockDim.x + threadIdx.x;
    float values[EACH];
    UNROLL
    for (uint i = 0; i < EACH; i++) {
        const uint col = min(first + i * blockDim.x, args.cols - 1);
        const TileAt tile = Placed<Element>::of(table + ulong(id / 16) * n_tiles * Element::BYTES, col / 64);
        const Place place = {id % 8, id / 8 % 2, col / 32 % 2, col / 16 % 2, col % 16 / 4, col % 4};
        values[i] = args.scale * Element::at(tile, place);
    }
    UNROLL
    for (uint i = 0; i < EACH; i++) {
        const uint col = first + i * blockDim.x;
        if (col < args.cols) out[ulong(row) * args.cols + col] = values[i];
    }
}

#define EMBED_KERNEL(OP, ELEMENT, NAME)                                                                            \
    extern "C" __global__ void OP##_##NAME(const EmbedArgs args, const uint *inputs, const uchar *table, float *out) { \
        embed_row<ELEMENT>(args, inputs, table, out);                                                              \
    }

// `WEIGHT_FORMATS` names packings here.
WEIGHT_FORMATS(EMBED_KERNEL, embed_tiles)
