// Attention of prompts: up to 128 rows of one sequence and one query head in a block, over 64 positions
// at a time, with a streaming softmax (Dao 2023). Scores and sums of values are products of tensor cores;
// q and shares are rounded as keys and values are stored, what is stored in bytes is multiplied in halves.
// Blocks of positions start at multiples of 64: a row's result does not depend on how its prompt was cut.
// CUDA only.
#include "cache_tiles.h"
#include "warpgroup.h"

#define PROMPT_ROWS 128
#define PROMPT_BLOCK 64
// Copied at once; threads of a block share each evenly.
#define BLOCK_RUNS (PROMPT_BLOCK / RUN)
// Below any score; finite, so that nothing becomes exp(inf - inf).
#define UNSEEN -1.0e30f

FN float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Good to 2^-22 of 1, as soft-caps need it.
FN float tanh_fast(float x) { return 1.0f - __fdividef(2.0f, 1.0f + exp2_fast(2.8853900817779268f * x)); }

template <typename K, typename V, uint K_DIM, uint V_DIM> struct Prompt {
    typedef typename TileOf<K, K_DIM>::Tile KStored;
    typedef typename TileOf<V, V_DIM>::Tile VStored;
    typedef typename KStored::Numbers KNumbers;
    typedef typename VStored::Numbers VNumbers;
    // Whether warpgroups multiply straight from shared memory (Hopper), or warps from registers.
    static constexpr bool GROUPS = HAS_WARPGROUPS && K_DIM % 64 == 0 && (V_DIM == 64 || V_DIM % 128 == 0);
    typedef TileFor<GROUPS, KNumbers, K_DIM, PROMPT_ROWS> QTile;
    typedef TileFor<GROUPS, KNumbers, K_DIM, PROMPT_BLOCK> KTile;
    typedef TileFor<GROUPS, VNumbers, V_DIM, PROMPT_BLOCK> VTile;
    // Where keys and values are copied to: what is stored in bytes comes in between.
    typedef typename Choice<KStored::IS_WIDE, KTile, KStored>::Type KCopied;
    typedef typename Choice<VStored::IS_WIDE, VTile, VStored>::Type VCopied;
    // Sixteens of rows of a warp: two share what a warp loads of keys and values, where registers hold both.
    static constexpr uint M_TILES = !GROUPS && V_DIM <= 128 ? 2 : 1;
    static constexpr uint WARPS = PROMPT_ROWS / 16 / M_TILES, THREADS = 32 * WARPS, WARP_ROWS = 16 * M_TILES;
    static constexpr uint MIN_BLOCKS = V_DIM <= 128 ? 2 : 1;
    static constexpr uint RUN_THREADS = THREADS / BLOCK_RUNS;
    static constexpr uint K_STEPS = K_DIM / 16, V_TILES = V_DIM / 8, S_TILES = PROMPT_BLOCK / 8;
    static constexpr uint Q_BYTES = QTile::SIZE, K_BYTES = KTile::SIZE, V_BYTES = VTile::SIZE;
    static constexpr uint RAW_K = KStored::IS_WIDE ? 0 : PROMPT_BLOCK * KStored::STRIDE;
    static constexpr uint RAW_V = VStored::IS_WIDE ? 0 : PROMPT_BLOCK * VStored::STRIDE;
    static constexpr uint SHARED_BYTES = Q_BYTES + K_BYTES + V_BYTES + RAW_K + RAW_V;
    static constexpr ulong NOWHERE = ~0ull;

    const AttentionArgs &args;
    const uint *table;
    uchar *q_tile, *k_tile, *v_tile, *k_stored, *v_stored;
    uint kv_head, n_rows, first_position, from, to;
    ulong vector;  // where the next keys, then the values with them, are copied from
    uint lane, warp, g, t;
    float scores[M_TILES][S_TILES][4], sums[M_TILES][V_TILES][4];
    // Of the rows g and g + 8 of each m-tile; totals are this lane's part.
    float most[M_TILES][2], totals[M_TILES][2];

    MEMBER Prompt(const AttentionArgs &args, const uint *inputs, uchar *shared, uint first_row, uint n_rows, uint head)
        : args(args), n_rows(n_rows) {
        table = inputs + args.block_tables_at + inputs[args.sequences_at + first_row] * args.max_pages;
        first_position = inputs[args.places_at + first_row];
        to = first_position + n_rows;
        from = start_of(first_position);
        kv_head = head / (args.n_heads / args.n_kv_heads);
        q_tile = shared, k_tile = q_tile + Q_BYTES, v_tile = k_tile + K_BYTES;
        k_stored = KStored::IS_WIDE ? k_tile : v_tile + V_BYTES;
        v_stored = VStored::IS_WIDE ? v_tile : v_tile + V_BYTES + RAW_K;
        lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
        UNROLL
        for (uint i = 0; i < M_TILES * V_TILES * 4; i++) sums[i / 4 / V_TILES][i / 4 % V_TILES][i % 4] = 0;
        UNROLL
        for (uint i = 0; i < M_TILES * 2; i++) most[i / 2][i % 2] = UNSEEN, totals[i / 2][i % 2] = 0;
    }

    // The first position that the row at `position` sees.
    MEMBER uint start_of(uint position) const {
        return args.window && position + 1 > args.window ? position + 1 - args.window : 0;
    }
    MEMBER uint warp_first() const { return first_position + warp * WARP_ROWS; }
    MEMBER uint warp_last() const { return min(warp_first() + WARP_ROWS, to) - 1; }
    // Whether any of the rows that are multiplied with this warp's sees any of the block.
    MEMBER bool sees(uint block) const {
        constexpr uint TOGETHER = GROUPS ? 64 : WARP_ROWS;
        const uint row = warp * WARP_ROWS / TOGETHER * TOGETHER, last = min(row + TOGETHER, n_rows) - 1;
        return row < n_rows && block * PROMPT_BLOCK <= first_position + last &&
            start_of(first_position + row) < block * PROMPT_BLOCK + PROMPT_BLOCK;
    }
    // Makes what was written to shared memory known to all.
    MEMBER void meet() const {
        if (GROUPS) publish_shared();
        __syncthreads();
    }

    MEMBER void load_queries(const float *q, uint n_heads) const {
        for (uint i = threadIdx.x; i < PROMPT_ROWS * K_DIM / 4; i += THREADS) {
            const uint row = i / (K_DIM / 4), at = i % (K_DIM / 4);
            float4 x = {0, 0, 0, 0};
            if (row < n_rows) x = *(const float4 *)(q + ulong(row) * n_heads * K_DIM + 4 * at);
            const float scale = args.scale;
            const uint2 pairs = {KNumbers::pack(x.x * scale, x.y * scale), KNumbers::pack(x.z * scale, x.w * scale)};
            *(uint2 *)(q_tile + QTile::at(row, at / 2) + at % 2 * 8) = pairs;
        }
    }

    // Which vector of the cache begins the run that this thread helps to copy.
    MEMBER ulong find(uint block) const {
        const uint position = block * PROMPT_BLOCK + threadIdx.x / RUN_THREADS * RUN;
        if (position >= to || position + RUN <= from) return NOWHERE;
        const uint page = table[position / args.page_size], offset = position % args.page_size;
        return kv_vector(page, offset, kv_head, args.n_kv_heads, args.page_size, 1);
    }
    template <typename Tile> MEMBER void copy(uchar *tile, const uchar *cache, ulong vector) const {
        const uint row = threadIdx.x / RUN_THREADS * RUN, index = threadIdx.x % RUN_THREADS;
        if (vector != NOWHERE) copy_run<Tile, RUN_THREADS>(tile, row, cache + vector * Tile::BYTES, index);
        commit_copies();
    }

    // Bytes to halves.
    template <typename Tile, typename Stored, uint DIM> MEMBER void widen(uchar *tile, const uchar *stored) const {
        UNROLL_BY(4)
        for (uint i = threadIdx.x; i < PROMPT_BLOCK * DIM / 8; i += THREADS) {
            const uint row = i / (DIM / 8), eight = i % (DIM / 8);
            *(uint4 *)(tile + Tile::at(row, eight)) = Stored::load(stored + row * Stored::STRIDE, 8 * eight);
        }
    }

    MEMBER bool is_partial(uint block) const {
        return block * PROMPT_BLOCK < from || block * PROMPT_BLOCK + PROMPT_BLOCK > to;
    }
    // Nothing may come of values that no row sees, which can be anything.
    MEMBER void clear_unseen(uint block) const {
        for (uint row = warp; row < PROMPT_BLOCK; row += WARPS) {
            const uint position = block * PROMPT_BLOCK + row;
            if (from <= position && position < to) continue;
            const uint4 none = {0, 0, 0, 0};
            for (uint i = lane; i < V_DIM / 8; i += 32) *(uint4 *)(v_tile + VTile::at(row, i)) = none;
        }
    }

    // Products of this warp's queries with the block's keys.
    MEMBER void score() {
        if constexpr (GROUPS) {
            multiply_tiles<KNumbers, K_DIM>(scores[0], q_tile + warp / 4 * 64 * 128, k_tile);
        } else {
            score_alone();
        }
    }
    MEMBER void score_alone() {
        UNROLL
        for (uint i = 0; i < M_TILES * S_TILES * 4; i++) scores[i / 4 / S_TILES][i / 4 % S_TILES][i % 4] = 0;
        UNROLL
        for (uint k = 0; k < K_STEPS; k++) {
            uint a[M_TILES][4];
            UNROLL
            for (uint m = 0; m < M_TILES; m++) QTile::positions(&a[m], q_tile, warp * WARP_ROWS + 16 * m, 16 * k, lane);
            UNROLL
            for (uint n = 0; n < S_TILES; n += 2) {
                uint b[4];
                const uint row = 8 * n + lane / 16 * 8 + lane % 8;
                load_matrices(b, k_tile + KTile::at(row, 2 * k + lane / 8 % 2));
                UNROLL
                for (uint m = 0; m < M_TILES; m++) {
                    KNumbers::mma(scores[m][n], a[m], b[0], b[1]);
                    KNumbers::mma(scores[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }

    MEMBER void cap_scores() {
        const float inverse = KStored::FACTOR / args.softcap, cap = args.softcap / KStored::FACTOR;
        UNROLL
        for (uint i = 0; i < M_TILES * S_TILES * 4; i++) {
            float &x = scores[i / 4 / S_TILES][i / 4 % S_TILES][i % 4];
            x = cap * tanh_fast(x * inverse);
        }
    }

    MEMBER void mask_scores(uint block) {
        UNROLL
        for (uint i = 0; i < M_TILES * S_TILES * 4; i++) {
            const uint m = i / 4 / S_TILES, n = i / 4 % S_TILES, c = i % 4;
            const uint position = block * PROMPT_BLOCK + 8 * n + 2 * t + c % 2;
            const uint of_row = warp_first() + 16 * m + g + c / 2 * 8;
            if (position > of_row || position < start_of(of_row)) scores[m][n][c] = float_of_bits(0xff800000);
        }
    }

    // Scores to shares, relative to the largest score so far; sums are brought down to it.
    MEMBER void share(uint block) {
        if (args.softcap > 0) cap_scores();
        const uint begin = block * PROMPT_BLOCK;
        if (begin + PROMPT_BLOCK - 1 > warp_first() || begin < start_of(warp_last())) mask_scores(block);
        const float log2_e = 1.4426950408889634f * KStored::FACTOR;
        UNROLL
        for (uint i = 0; i < M_TILES * 2; i++) {
            const uint m = i / 2, half = i % 2;
            float now = most[m][half];
            UNROLL
            for (uint n = 0; n < S_TILES; n++) {
                now = larger(now, larger(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
            }
            now = larger(now, __shfl_xor_sync(0xffffffff, now, 1));
            now = larger(now, __shfl_xor_sync(0xffffffff, now, 2));
            const float keep = exp2_fast((most[m][half] - now) * log2_e), offset = -now * log2_e;
            most[m][half] = now;
            float total = 0;
            UNROLL
            for (uint j = 0; j < S_TILES * 2; j++) {
                float &x = scores[m][j / 2][2 * half + j % 2];
                x = exp2_fast(multiply_add(x, log2_e, offset));
                total += x;
            }
            totals[m][half] = multiply_add(totals[m][half], keep, total);
            // Most blocks have no row's largest score, and what is kept whole is not multiplied.
            if (__any_sync(0xffffffff, keep != 1.0f)) {
                UNROLL
                for (uint j = 0; j < V_TILES * 2; j++) sums[m][j / 2][2 * half + j % 2] *= keep;
            }
        }
    }

    // Operand A of the shares of 16 positions.
    MEMBER void pack_shares(uint (&a)[4], uint m, uint k) const {
        UNROLL
        for (uint i = 0; i < 4; i++) {
            const float *pair = &scores[m][2 * k + i / 2][i % 2 * 2];
            a[i] = VNumbers::pack(pair[0], pair[1]);
        }
    }
    // Adds the block's values, weighted by the shares.
    MEMBER void weigh() {
        if constexpr (GROUPS) {
            uint a[PROMPT_BLOCK / 16][4];
            UNROLL
            for (uint k = 0; k < PROMPT_BLOCK / 16; k++) pack_shares(a[k], 0, k);
            add_weighted<VNumbers, PROMPT_BLOCK>(sums[0], a, v_tile);
        } else {
            weigh_alone();
        }
    }
    MEMBER void weigh_alone() {
        UNROLL
        for (uint k = 0; k < PROMPT_BLOCK / 16; k++) {
            uint a[M_TILES][4];
            UNROLL
            for (uint m = 0; m < M_TILES; m++) pack_shares(a[m], m, k);
            UNROLL
            for (uint n = 0; n < V_TILES; n += 2) {
                uint b[4];
                load_matrices_transposed(b, v_tile + VTile::at(16 * k + lane % 16, n + lane / 16));
                UNROLL
                for (uint m = 0; m < M_TILES; m++) {
                    VNumbers::mma(sums[m][n], a[m], b[0], b[1]);
                    VNumbers::mma(sums[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
    }

    MEMBER void attend(const uchar *k_cache, const uchar *v_cache) {
        const uint last = (to - 1) / PROMPT_BLOCK;
        for (uint block = from / PROMPT_BLOCK; block <= last; block++) {
            // The keys are there, and all are done with the values before.
            wait_for_copies<0>();
            meet();
            if constexpr (!KStored::IS_WIDE) widen<KTile, KStored, K_DIM>(k_tile, k_stored);
            copy<VCopied>(v_stored, v_cache, vector);
            if (block < last) vector = find(block + 1);
            if (!KStored::IS_WIDE) meet();
            if (sees(block)) score();
            // The values are there, and all are done with the keys.
            wait_for_copies<0>();
            meet();
            if constexpr (!VStored::IS_WIDE) widen<VTile, VStored, V_DIM>(v_tile, v_stored);
            if (block < last) copy<KCopied>(k_stored, k_cache, vector);
            if (!VStored::IS_WIDE) meet();
            if (is_partial(block)) {
                clear_unseen(block);
                meet();
            }
            if (sees(block)) {
                share(block);
                weigh();
            }
        }
    }

    MEMBER void run(const float *q, const uchar *k_cache, const uchar *v_cache, float *out) {
        vector = find(from / PROMPT_BLOCK);
        copy<KCopied>(k_stored, k_cache, vector);
        load_queries(q, args.n_heads);
        attend(k_cache, v_cache);
        UNROLL
        for (uint i = 0; i < M_TILES * 2; i++) {
            const uint m = i / 2, half = i % 2, row = warp * WARP_ROWS + 16 * m + g + 8 * half;
            float total = totals[m][half];
            total += __shfl_xor_sync(0xffffffff, total, 1);
            total += __shfl_xor_sync(0xffffffff, total, 2);
            if (row >= n_rows) continue;
            const float inverse = VStored::FACTOR / total;
            float *to = out + ulong(row) * args.n_heads * V_DIM + 2 * t;
            UNROLL
            for (uint n = 0; n < V_TILES; n++) {
                const float2 pair = {sums[m][n][2 * half] * inverse, sums[m][n][2 * half + 1] * inverse};
                *(float2 *)(to + 8 * n) = pair;
            }
        }
    }
};

// Grid: items of query heads. Items of late rows take longest and begin first.
template <typename K, typename V, uint K_DIM, uint V_DIM>
FN void prompt_attention(const AttentionArgs &args, const uint *inputs, const float *q, const uchar *k_cache,
                         const uchar *v_cache, float *out, uchar *shared) {
    wait_for_inputs();
    allow_next();
    const uint n_items = inputs[args.n_items_at], head = blockIdx.x % args.n_heads, late = blockIdx.x / args.n_heads;
    if (late >= n_items) return;
    const uint *item = inputs + args.items_at + 2 * (n_items - 1 - late);
    const ulong at = ulong(item[0]) * args.n_heads + head;
    Prompt<K, V, K_DIM, V_DIM> prompt(args, inputs, shared, item[0], item[1], head);
    prompt.run(q + at * K_DIM, k_cache, v_cache, out + at * V_DIM);
}
