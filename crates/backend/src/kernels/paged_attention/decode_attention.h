// Attention of generated rows: a block takes 128 positions of one row (a split) and the query heads
// that share a key/value head, so that keys and values are read once. Another kernel folds a row's
// splits (merge_attention.h). CUDA only.
//
// Tensor cores do the sums, though the time goes to reading: of an operand of eight columns four are
// the heads' numbers and four what rounding left of them, so that q and the shares keep 22 bits
// (16 in bfloats).
#include "cache_tiles.h"
#include "splits.h"

#define DECODE_WARPS 4
#define DECODE_THREADS (32 * DECODE_WARPS)
// Runs of a warp.
#define WARP_RUNS (SPLIT / RUN / DECODE_WARPS)
// In place of a run of positions that the row does not see.
#define NOWHERE 0xffffffffu

// The vector of the cache with which the run of a split begins that is its `nth`.
FN uint find_run(const AttentionArgs &args, const uint *table, Part part, uint split, uint kv_head, uint nth) {
    const uint run = nth * RUN, position = split * SPLIT + run;
    if (!part.meets(run)) return NOWHERE;
    const uint page = table[position / args.page_size], offset = position % args.page_size;
    return uint(kv_vector(page, offset, kv_head, args.n_kv_heads, args.page_size, 1));
}

// A block's next 32 pieces of work, one a lane, so that their look-ups wait for memory together.
struct Ahead {
    uint item, row, split, to, kv_head;
    uint vectors[WARP_RUNS];  // of the cache, with which this warp's runs begin

    // Lane 0's is `index`, and they are as far apart as there are blocks.
    MEMBER Ahead(const AttentionArgs &args, const uint *inputs, const Batch &batch, uint index, uint n_work) {
        index = min(index + threadIdx.x % 32 * gridDim.x, n_work - 1);
        item = index / args.n_kv_heads, kv_head = index % args.n_kv_heads;
        const uint *of_item = inputs + batch.items_at + 4 * item;
        row = of_item[0], split = of_item[1], to = of_item[2] + 1;
        const uint *table = inputs + args.block_tables_at + of_item[3] * args.max_pages;
        const Part part(Span(args, to), split);
        const uint first = threadIdx.x / 32 % DECODE_WARPS * WARP_RUNS;
        UNROLL
        for (uint i = 0; i < WARP_RUNS; i++) vectors[i] = find_run(args, table, part, split, kv_head, first + i);
    }
};

// What a block does at a time: a split of a row for a key/value head.
struct Work {
    uint item, row, split, kv_head;
    Span span;
    Part part;
    uint vectors[WARP_RUNS];

    MEMBER Work(const AttentionArgs &args, const Ahead &ahead, uint lane)
        : item(__shfl_sync(0xffffffff, ahead.item, lane)), row(__shfl_sync(0xffffffff, ahead.row, lane)),
          split(__shfl_sync(0xffffffff, ahead.split, lane)), kv_head(__shfl_sync(0xffffffff, ahead.kv_head, lane)),
          span(args, __shfl_sync(0xffffffff, ahead.to, lane)), part(span, split) {
        UNROLL
        for (uint i = 0; i < WARP_RUNS; i++) vectors[i] = __shfl_sync(0xffffffff, ahead.vectors[i], lane);
    }
    // Whether it was all stored in earlier steps: this one has stored at most one position a row.
    MEMBER bool is_old(uint n_rows) const { return split * SPLIT + SPLIT + n_rows <= span.to; }
};

// By four warps or by eight: the same bits.
template <typename K, typename V, uint K_DIM, uint V_DIM, uint GROUP, uint WARPS_ = DECODE_WARPS> struct Decode {
    typedef typename TileOf<K, K_DIM>::Tile KTile;
    typedef typename TileOf<V, V_DIM>::Tile VTile;
    static constexpr uint HEADS = GROUP, KEYS = K_DIM, VALUES = V_DIM, WARPS = WARPS_, THREADS = 32 * WARPS;
    // Runs of a split, and of a warp, which has their positions in operands of as many.
    static constexpr uint ALL_RUNS = SPLIT / RUN, RUNS = ALL_RUNS / WARPS, POSITIONS = RUNS * RUN;
    static_assert(RUN == 16 && RUNS > 0, "an operand A has 16 rows");
    // Columns of operand B are 4 heads and their rest.
    static constexpr uint N_TILES = (GROUP + 3) / 4, K_STEPS = K_DIM / 16;
    // Operands A that are loaded together; of the values' a warp has every one that is its turn.
    static constexpr uint K_TOGETHER = KTile::K_TOGETHER, M_TOGETHER = V_DIM < 32 * WARPS ? 1 : VTile::MOST_M_TOGETHER;
    static constexpr uint M_DIMS = 16 * M_TOGETHER, WARP_M = (V_DIM / M_DIMS + WARPS - 1) / WARPS;
    static constexpr uint WARP_M_TILES = WARP_M * M_TOGETHER;
    // Keys and values that are too large together follow each other in the same place.
    static constexpr uint K_BYTES = SPLIT * KTile::STRIDE, V_BYTES = SPLIT * VTile::STRIDE;
    static constexpr bool IN_TURN = K_BYTES + V_BYTES > 100 * 1024;
    static constexpr uint TILE_BYTES = IN_TURN ? (K_BYTES > V_BYTES ? K_BYTES : V_BYTES) : K_BYTES + V_BYTES;
    // Shares [n_tile, column, position], columns apart by what spreads them over all banks.
    static constexpr uint SHARE_STRIDE = 2 * SPLIT + 16, SHARE_BYTES = N_TILES * 8 * SHARE_STRIDE;
    // They, and what is found of scores.
    static constexpr uint FOUND_BYTES = SHARE_BYTES + 2 * ALL_RUNS * N_TILES * 4 * 4, SHARED_BYTES = TILE_BYTES + FOUND_BYTES;
    // Whether a lane has registers for the queries of the split that is next: what is read waits behind the copies that
    // are under way, so they are asked for before these.
    static constexpr bool ASKS_AHEAD = N_TILES * K_STEPS <= 8;
    struct Queries {
        float2 pairs[ASKS_AHEAD ? 2 * N_TILES * K_STEPS : 1];
    };
    // Registers shall not be what keeps blocks from a multiprocessor's 227 KB.
    static constexpr uint FIT = 227 * 1024 / (SHARED_BYTES + 1024), BLOCKS = FIT < 6 ? FIT : 6;

    uchar *k_tile, *v_tile, *shares;
    float *maxima, *sums;  // [warp, head], [run, head]
    uint lane, warp, g, t;

    // `tiles` has TILE_BYTES, `found` FOUND_BYTES.
    MEMBER Decode(uchar *tiles, uchar *found) {
        k_tile = tiles;
        v_tile = IN_TURN ? tiles : tiles + K_BYTES;
        shares = found;
        maxima = (float *)(shares + SHARE_BYTES);
        sums = maxima + ALL_RUNS * N_TILES * 4;
        lane = threadIdx.x % 32, warp = threadIdx.x / 32 % WARPS, g = lane / 4, t = lane % 4;
    }

    // Waits for the warps that do the same split.
    MEMBER void barrier() const {
        asm volatile("bar.sync %0, %1;" ::"r"(1 + threadIdx.x / THREADS), "n"(THREADS) : "memory");
    }

    // Begins to copy this warp's positions, if there are any.
    template <typename Tile> MEMBER void copy(uchar *tile, const uchar *cache, const uint *vectors) const {
        UNROLL
        for (uint i = 0; i < RUNS; i++) {
            if (vectors[i] == NOWHERE) continue;
            copy_run<Tile, 32>(tile, (warp * RUNS + i) * RUN, cache + ulong(vectors[i]) * Tile::BYTES, lane);
        }
        commit_copies();
    }

    // The `i`th pair of `n_tile` that this lane has of the queries.
    MEMBER float2 query(const float *q, uint n_tile, uint i) const {
        const uint head = 4 * n_tile + g % 4;
        const uint k = i / 2 % K_TOGETHER, dim = (i / 2 - k) * 16 + KTile::first_dim(k, t, i % 2);
        float2 pair = {0, 0};
        if (head < GROUP) pair = *(const float2 *)(q + head * K_DIM + dim);
        return pair;
    }
    MEMBER void ask(Queries &queries, const float *q) const {
        UNROLL
        for (uint i = 0; ASKS_AHEAD && i < 2 * N_TILES * K_STEPS; i++) {
            queries.pairs[i] = query(q, i / (2 * K_STEPS), i % (2 * K_STEPS));
        }
    }

    // Operand B of the pairs that `query` has: this lane's column is a head, or what is left of it.
    typedef uint Operand[K_STEPS][2];
    template <typename Pair> MEMBER void load_queries(Operand &b, float scale, const Pair &query) const {
        UNROLL
        for (uint i = 0; i < 2 * K_STEPS; i++) {
            float2 x = query(i);
            x.x *= scale, x.y *= scale;
            const uint pair = KTile::Numbers::pack(x.x, x.y);
            b[i / 2][i % 2] = g < 4 ? pair : pack_rest<typename KTile::Numbers>(pair, x.x, x.y);
        }
    }

    typedef float Scores[N_TILES][RUNS][4];
    // Scores of this warp's positions. Of element c of an m-tile the position is g + c / 2 * 8,
    // the head 2 t % 4 + c % 2: lanes t and t + 2 have the same. `load(b, n)` gives operand B of n-tile n.
    template <typename Load>
    MEMBER void score(Scores &scores, const Load &load, float softcap, Part part) const {
        UNROLL
        for (uint n = 0; n < N_TILES; n++) {
            Operand b;
            load(b, n);
            if (n == 0) {
                if (IN_TURN) wait_for_copies<0>();
                else wait_for_copies<1>();
                __syncwarp();
            }
            const uchar *keys = k_tile + warp * POSITIONS * KTile::STRIDE;
            UNROLL
            for (uint i = 0; i < 4 * RUNS; i++) scores[n][i / 4][i % 4] = 0;
            // Operands of all runs are loaded before any is multiplied: a product takes as long as a load.
            UNROLL
            for (uint k = 0; k < K_STEPS; k += K_TOGETHER) {
                uint a[RUNS][K_TOGETHER][4];
                UNROLL
                for (uint m = 0; m < RUNS; m++) KTile::positions(a[m], keys, m * RUN, k * 16, lane);
                UNROLL
                for (uint i = 0; i < RUNS * K_TOGETHER; i++) {
                    const uint m = i % RUNS, at = i / RUNS;
                    KTile::Numbers::mma(scores[n][m], a[m][at], b[k + at][0], b[k + at][1]);
                }
            }
            UNROLL
            for (uint m = 0; m < RUNS; m++) {
                float (&c)[4] = scores[n][m];
                UNROLL
                for (uint i = 0; i < 4; i++) c[i] = (c[i] + __shfl_xor_sync(0xffffffff, c[i], 2)) * KTile::FACTOR;
                if (softcap > 0) {
                    for (uint i = 0; i < 4; i++) c[i] = softcap * exact_tanh(c[i] / softcap);
                }
                if (part.is_whole()) continue;
                UNROLL
                for (uint i = 0; i < 4; i++) {
                    const bool is_seen = part.has(warp * POSITIONS + m * RUN + g + i / 2 * 8);
                    c[i] = is_seen ? c[i] : float_of_bits(0xff800000);
                }
            }
        }
    }

    // This warp's largest score of each head.
    MEMBER void find_maxima(const Scores &scores) const {
        UNROLL
        for (uint i = 0; i < 2 * N_TILES; i++) {
            const float (&c)[RUNS][4] = scores[i / 2];
            float most = larger(c[0][i % 2], c[0][i % 2 + 2]);
            for (uint m = 1; m < RUNS; m++) most = larger(most, larger(c[m][i % 2], c[m][i % 2 + 2]));
            for (uint step = 4; step < 32; step *= 2) most = larger(most, __shfl_xor_sync(0xffffffff, most, step));
            if (lane < 2) maxima[warp * N_TILES * 4 + i / 2 * 4 + 2 * lane + i % 2] = most;
        }
    }

    MEMBER float maximum(uint head) const {
        float most = LOWEST;
        for (uint w = 0; w < WARPS; w++) most = larger(most, maxima[w * N_TILES * 4 + head]);
        return most;
    }
    MEMBER float sum(uint head) const {
        float sum = 0;
        for (uint run = 0; run < ALL_RUNS; run++) sum += sums[run * N_TILES * 4 + head];
        return sum;
    }

    // Scores to shares of the split, and the sums of them of each of this warp's runs.
    MEMBER void share(const Scores &scores) const {
        UNROLL
        for (uint i = 0; i < 2 * N_TILES; i++) {
            const uint n = i / 2, j = i % 2, head = 4 * n + 2 * t % 4 + j;
            const float most = maximum(head);
            ushort *column = (ushort *)(shares + (n * 8 + 2 * t + j) * SHARE_STRIDE) + warp * POSITIONS + g;
            UNROLL
            for (uint m = 0; m < RUNS; m++) {
                const float p = exact_exp(scores[n][m][j] - most), p8 = exact_exp(scores[n][m][j + 2] - most);
                uint pair = VTile::Numbers::pack(p, p8);
                if (t >= 2) pair = pack_rest<typename VTile::Numbers>(pair, p, p8);
                column[m * RUN] = ushort(pair), column[m * RUN + 8] = ushort(pair >> 16);
                float sum = p + p8;
                for (uint step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
                if (lane < 2) sums[(warp * RUNS + m) * N_TILES * 4 + head] = sum;
            }
        }
    }

    // Nothing may come of values that are not seen, which can be anything: those of runs that have seen ones are cleared.
    MEMBER void clear_unseen(Part part) const {
        if (part.is_whole()) return;
        const uint first = warp * POSITIONS, end = first + POSITIONS;
        clear_values(max(part.from / RUN * RUN, first), min(part.from, end));
        clear_values(max(part.to, first), min((part.to + RUN - 1) / RUN * RUN, end));
    }
    // Rows of values, none if `from` is not below `to`.
    MEMBER void clear_values(uint from, uint to) const {
        constexpr uint STRIDE = VTile::STRIDE, WIDTH = STRIDE % 8 == 0 ? 8 : 2;
        UNROLL_BY(1)
        for (uint i = from * STRIDE + WIDTH * lane; i < to * STRIDE; i += 32 * WIDTH) {
            if (WIDTH == 8) *(uint2 *)(v_tile + i) = make_uint2(0, 0);
            else *(ushort *)(v_tile + i) = 0;
        }
    }

    // The first of this warp's `m`th dimensions, and whether there are any.
    MEMBER uint dim_of(uint m) const { return (m * WARPS + warp) * M_DIMS; }
    MEMBER bool has_dims(uint m) const { return V_DIM % (M_DIMS * WARPS) == 0 || dim_of(m) < V_DIM; }
    // The values' sums, weighted by the shares, of this warp's dimensions.
    MEMBER void weigh(float (&out)[WARP_M_TILES][N_TILES][4], Part part) const {
        UNROLL
        for (uint i = 0; i < WARP_M_TILES * N_TILES * 4; i++) out[i / 4 / N_TILES][i / 4 % N_TILES][i % 4] = 0;
        const uint begin = part.from / RUN * RUN;
        const uchar *values = v_tile + begin * VTile::STRIDE, *column = shares + g * SHARE_STRIDE + 2 * (begin + 2 * t);
        UNROLL_BY(2)
        for (uint run = begin; run < part.to; run += RUN, values += RUN * VTile::STRIDE, column += 2 * RUN) {
            uint b[N_TILES][2];
            UNROLL
            for (uint i = 0; i < 2 * N_TILES; i++) b[i / 2][i % 2] = *(const uint *)(column + i / 2 * 8 * SHARE_STRIDE + i % 2 * 16);
            // Operands of two are loaded before either is multiplied.
            UNROLL
            for (uint first = 0; first < WARP_M; first += 2) {
                uint a[2][M_TOGETHER][4];
                UNROLL
                for (uint m = first; m < first + 2 && m < WARP_M; m++) {
                    if (has_dims(m)) VTile::template dimensions<M_TOGETHER>(a[m - first], values, 0, dim_of(m), lane);
                }
                UNROLL
                for (uint m = first; m < first + 2 && m < WARP_M; m++) {
                    if (!has_dims(m)) continue;
                    UNROLL
                    for (uint i = 0; i < M_TOGETHER * N_TILES; i++) {
                        const uint n = i % N_TILES, j = i / N_TILES;
                        VTile::Numbers::mma(out[m * M_TOGETHER + j][n], a[m - first][j], b[n][0], b[n][1]);
                    }
                }
            }
        }
    }

    // The head of the `i`th of a lane's pairs of sums.
    MEMBER uint head_of(uint i) const { return i / 2 * 4 + 2 * t % 4 + i % 2; }

    // Adds up what lanes t and t + 2 have, over the sum of shares if that is the row's result; `sum_of(i)` is the `i`th head's.
    template <typename Sum> MEMBER void finish(float (&out)[WARP_M_TILES][N_TILES][4], bool is_whole, const Sum &sum_of) const {
        UNROLL
        for (uint i = 0; i < 2 * N_TILES; i++) {
            const float factor = is_whole ? VTile::FACTOR / sum_of(i) : VTile::FACTOR;
            UNROLL
            for (uint at = 0; at < 2 * WARP_M_TILES; at++) {
                float &x = out[at / 2][i / 2][i % 2 + at % 2 * 2];
                x = (x + __shfl_xor_sync(0xffffffff, x, 2)) * factor;
            }
        }
    }

    // Calls `put(head, dim, sum)` for what `finish` has left.
    template <typename Put> MEMBER void put_all(const float (&out)[WARP_M_TILES][N_TILES][4], const Put &put) const {
        UNROLL
        for (uint i = 0; i < 2 * N_TILES * WARP_M_TILES; i++) {
            const uint pair = i / WARP_M_TILES, m = i % WARP_M_TILES, head = head_of(pair);
            const uint dim = dim_of(m / M_TOGETHER);
            UNROLL
            for (uint half = 0; half < 2; half++) {
                const float sum = out[m][pair / 2][pair % 2 + 2 * half];
                if (t < 2 && head < GROUP && dim < V_DIM) put(head, dim + VTile::template row_dim<M_TOGETHER>(m % M_TOGETHER, g, half), sum);
            }
        }
    }
};

// Writes a split's results: to where they are merged, or as the row's own if it has no other split.
template <typename D>
FN void store_split(const D &decode, const AttentionArgs &args, const Work &work, float *out, float *scratch) {
    float sums[D::WARP_M_TILES][D::N_TILES][4];
    decode.weigh(sums, work.part);
    const uint head = work.kv_head * D::HEADS;
    const bool is_whole = work.span.n_splits() == 1;
    const Partials partials(args, scratch);
    const ulong at = ulong(work.item) * args.n_heads + head;
    float *to = is_whole ? out + (ulong(work.row) * args.n_heads + head) * D::VALUES : partials.outs + at * D::VALUES;
    decode.finish(sums, is_whole, [&](uint i) { return decode.sum(decode.head_of(i)); });
    decode.put_all(sums, [&](uint head, uint dim, float sum) { to[head * D::VALUES + dim] = sum; });
    if (is_whole || threadIdx.x >= D::HEADS) return;
    const float2 totals = {decode.maximum(threadIdx.x), decode.sum(threadIdx.x)};
    *(float2 *)(partials.totals + 2 * (at + threadIdx.x)) = totals;
}

// Grid: as many blocks as the device holds, or as there is work. While a block computes, its next keys
// and values are on their way.
template <typename K, typename V, uint K_DIM, uint V_DIM, uint GROUP>
FN void decode_attention(const AttentionArgs &args, const uint *inputs, const Batch &batch, const float *q,
                         const uchar *k_cache, const uchar *v_cache, float *out, float *scratch, uchar *shared) {
    typedef Decode<K, V, K_DIM, V_DIM, GROUP> D;
    const uint n_work = batch.n_items * args.n_kv_heads;
    uint index = blockIdx.x;
    if (index >= n_work) return wait_for_inputs();
    const D decode(shared, shared + D::TILE_BYTES);
    Ahead ahead(args, inputs, batch, index, n_work);
    Work work(args, ahead, 0);
    const bool is_old = work.is_old(inputs[args.n_rows_at]);
    const auto queries_of = [&](const Work &work) { return q + (ulong(work.row) * args.n_heads + work.kv_head * GROUP) * K_DIM; };
    typename D::Queries queries;
    if (!is_old) {
        wait_for_inputs();
        decode.ask(queries, queries_of(work));
    }
    decode.template copy<typename D::KTile>(decode.k_tile, k_cache, work.vectors);
    if (!D::IN_TURN) decode.template copy<typename D::VTile>(decode.v_tile, v_cache, work.vectors);
    if (is_old) {
        wait_for_inputs();
        decode.ask(queries, queries_of(work));
    }
    allow_next();
    for (uint n_begun = 1;; n_begun++) {
        index += gridDim.x;
        const bool is_last = index >= n_work;
        if (n_begun % 32 == 0 && !is_last) ahead = Ahead(args, inputs, batch, index, n_work);
        const Work next(args, ahead, n_begun % 32);
        typename D::Scores scores;
        const float *const own = queries_of(work);
        const auto load = [&](typename D::Operand &b, uint n) {
            decode.load_queries(b, args.scale, [&](uint i) {
                return D::ASKS_AHEAD ? queries.pairs[2 * D::K_STEPS * n + i] : decode.query(own, n, i);
            });
        };
        decode.score(scores, load, args.softcap, work.part);
        if (!is_last) decode.ask(queries, queries_of(next));
        // This warp has done with its keys, and makes place for the next.
        __syncwarp();
        if (!D::IN_TURN && !is_last) decode.template copy<typename D::KTile>(decode.k_tile, k_cache, next.vectors);
        decode.find_maxima(scores);
        decode.barrier();
        if (D::IN_TURN) decode.template copy<typename D::VTile>(decode.v_tile, v_cache, work.vectors);
        decode.share(scores);
        if (!D::IN_TURN && !is_last) wait_for_copies<1>();
        else wait_for_copies<0>();
        __syncwarp();
        decode.clear_unseen(work.part);
        decode.barrier();
        store_split(decode, args, work, out, scratch);
        if (is_last) return;
        decode.barrier();
        if (D::IN_TURN) decode.template copy<typename D::KTile>(decode.k_tile, k_cache, next.vectors);
        else decode.template copy<typename D::VTile>(decode.v_tile, v_cache, next.vectors);
        work = next;
    }
}
