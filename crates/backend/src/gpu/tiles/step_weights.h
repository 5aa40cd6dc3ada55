// What the blocks of step.h are given, and where their weights lie.
#ifndef QUARREL_STEP_WEIGHTS_H
#define QUARREL_STEP_WEIGHTS_H

#include "decode_attention.h"
#include "few_rows.h"
#include "known_turns.h"
#include "letters.h"
#include "merge_attention.h"

#if __CUDA_ARCH__ >= 900

// What the host gives the kernel.
#ifndef STEP_LAYERS
#define STEP_LAYERS 25
#define STEP_SLOTS 4
#define STEP_FEEDERS 3
#define STEP_SEVERAL true
#define STEP_PIECES 1
#define STEP_MOST_PIECES 3
#define STEP_TEAM_PAIRS 1
#define STEP_SHARING 16
#define STEP_CHAINS 1
#define STEP_BLOCK_SPLITS 16
#define STEP_IN_BLOCKS true
#define STEP_QKV P4
#define STEP_QKV_OTHER P4
#define STEP_OUTPUT P4
#define STEP_OUTPUT_OTHER P4
#define STEP_GATED P4
#define STEP_DOWN P4
#define STEP_DOWN_OTHER P4
#define ATTENTION_K KvF16
#define ATTENTION_V KvF16
#define ATTENTION_K_DIM 128
#define ATTENTION_V_DIM 128
#define ATTENTION_GROUP 4
#endif

template <typename A, typename B> struct AreSame { enum { YES = false }; };
template <typename A> struct AreSame<A, A> { enum { YES = true }; };

FN constexpr uint larger_of(uint a, uint b) { return a > b ? a : b; }

// Maps whose weights are packed in one of two ways.
template <typename A, typename B> struct Maps {
    typedef FewRows<A, true> First;
    typedef FewRows<B, true> Other;
    typedef typename First::Rows Rows;
    static_assert(AreSame<Rows, typename Other::Rows>::YES, "both take the same rows");
    enum { MIXED = !AreSame<A, B>::YES, SUMS = First::SUMS, SLOT_BYTES = larger_of(First::SLOT_BYTES, Other::SLOT_BYTES) };
};
typedef Maps<TILE_OF(STEP_QKV), TILE_OF(STEP_QKV_OTHER)> QkvMaps;
typedef Maps<TILE_OF(STEP_OUTPUT), TILE_OF(STEP_OUTPUT_OTHER)> OutputMap;
typedef Maps<TILE_OF(STEP_GATED), TILE_OF(STEP_GATED)> GatedMaps;
typedef Maps<TILE_OF(STEP_DOWN), TILE_OF(STEP_DOWN_OTHER)> DownMap;
// Where blocks have several splits their sixteen SIMD-groups make up one pair of teams or two. For a single split larger teams gain
// nothing: there one pair takes half of them, whatever the others do.
typedef Decode<ATTENTION_K, ATTENTION_V, ATTENTION_K_DIM, ATTENTION_V_DIM, ATTENTION_GROUP, STEP_SEVERAL ? 8 / STEP_TEAM_PAIRS : DECODE_WARPS> Heads;

#define STEP_SIMDGROUPS (COMPUTING_THREADS / 32)

// A layer's maps, in turn.
enum Stage { QKV_STAGE, OUTPUT_STAGE, GATED_STAGE, DOWN_STAGE, STAGES };

// One layer's memory.
struct Layer {
    const float *norm;
    const uchar *q_weight;
    const float *q_bias;
    const uchar *k_weight;
    const float *k_bias;
    const uchar *v_weight;
    const float *v_bias;
    const float *q_norm, *k_norm;
    uchar *k_cache, *v_cache;
    const uchar *output;
    const float *output_bias;
    const float *gated_norm;
    const uchar *gate, *up, *down;
    const float *down_bias;
};
struct StepMemory {
    const uint *inputs;
    ulong *mail;
    float *residual;
    const float *inv_freq;
    Layer layers[STEP_LAYERS];
    MEMBER Outputs qkv(const Layer &l) const {
        return {{l.q_weight, l.k_weight, l.v_weight}, {l.q_bias, l.k_bias, l.v_bias}};
    }
    MEMBER Outputs add(const uchar *weight, const float *bias) const { return {{weight}, {bias}, {residual}}; }
};

// A band's weights.
struct Band {
    const uchar *at;  // null behind the last
    uint tile_bytes, chunk, together;
    template <typename F> static MEMBER Band of(const uchar *weight, uint band, const TileShape &shape) {
        return {weight + ulong(band) * shape.n_tiles * F::Tile::BYTES, F::Tile::BYTES, F::CHUNK, F::TOGETHER};
    }
};

// The bands of up to three maps, of which teams take them in turn: one each, or two that lie side by side. `others` has a bit
// for each map that is packed in the other way.
template <typename M, bool IN_PAIRS = false> struct StepMap {
    const TileArgs &args;
    const Outputs outputs;
    const uint others;
    static MEMBER uint block(uint nth, uint team) {
        return IN_PAIRS ? 2 * (blockIdx.x + nth * gridDim.x) + team : MapWeights<typename M::First>::block(nth, team);
    }
    // Bands of a team.
    MEMBER uint count(uint team) const {
        const uint first = block(0, team), step = block(1, team) - first;
        return first < args.n_blocks ? (args.n_blocks - first + step - 1) / step : 0;
    }
    MEMBER bool is_other(uint block) const {
        return M::MIXED && others >> (uint(block >= args.block1) + uint(block >= args.block2)) & 1;
    }
    // A bit for each of a team's bands that is.
    MEMBER uint other_bands(uint team) const {
        uint bands = 0;
        for (uint nth = 0; M::MIXED && nth < count(team); nth++) bands |= uint(is_other(block(nth, team))) << nth;
        return bands;
    }
    MEMBER Band at(uint nth, uint team) const {
        const uint block = StepMap::block(nth, team);
        if (block >= args.n_blocks) return {};
        const Output output(args, outputs, block, 1);
        return is_other(block) ? Band::of<typename M::Other>(output.weight, output.band, args.shape)
                               : Band::of<typename M::First>(output.weight, output.band, args.shape);
    }
};

// The bands of gate and up. Where results are quantised bands are done in pairs, which make up a block of 32 columns, as long
// as all blocks have as many; who reads the others quantises them.
struct StepGated {
    const StepArgs &args;
    const uchar *gate, *up;
    // The first of those that are not in pairs.
    static MEMBER uint first_single(const StepArgs &args) { return args.paired * gridDim.x; }
    MEMBER uint band(uint nth) const {
        if (nth < args.paired) return 2 * (blockIdx.x + nth / 2 * gridDim.x) + nth % 2;
        return first_single(args) + blockIdx.x + (nth - args.paired) * gridDim.x;
    }
    // Bands of a block.
    MEMBER uint count() const {
        uint n = args.paired;
        while (16 * band(n) < args.gated.cols) n++;
        return n;
    }
    // The second team does the bands of up.
    MEMBER Band at(uint nth, uint team) const {
        if (16 * band(nth) >= args.gated.cols) return {};
        return Band::of<GatedMaps::First>(team == 0 ? gate : up, band(nth), args.gated.shape);
    }
};

// Those of a layer.
struct StepMaps {
    const StepArgs &args;
    const StepMemory &memory;
    const uint i;
    MEMBER const Layer &layer() const { return memory.layers[i]; }
    MEMBER StepMap<QkvMaps> qkv() const {
        const OtherArgs &o = args.other;
        return {args.qkv, memory.qkv(layer()), (o.q >> i & 1) | (o.k >> i & 1) << 1 | (o.v >> i & 1) << 2};
    }
    MEMBER StepMap<OutputMap, STEP_IN_BLOCKS> output() const {
        return {args.output, memory.add(layer().output, layer().output_bias), args.other.output >> i & 1};
    }
    MEMBER StepGated gated() const { return {args, layer().gate, layer().up}; }
    MEMBER StepMap<DownMap, STEP_IN_BLOCKS> down() const {
        return {args.down, memory.add(layer().down, layer().down_bias), args.other.down >> i & 1};
    }
};

// What a block has to do, found once: divisions take long, and nothing else is done meanwhile.
struct Known {
    uint bands[STAGES][2];  // by team
    // Of attention: the positions that the row sees, `to` excluded, and their splits; the block's key/value head, how many splits
    // of it, and the last of them, counted from the first that the row sees; where in the row's place shares lie, and behind it
    // keys.
    uint from, to, all_splits, kv_head, n_splits, last, found_at, tiles_at;
};
FN Known &known() {
    __shared__ Known known;
    return known;
}
// By all threads, before a barrier.
FN void find_bands(const StepArgs &args, const StepMemory &memory) {
    const StepMaps maps = {args, memory, 0};
    const uint stage = threadIdx.x / 2, team = threadIdx.x % 2;
    if (stage == QKV_STAGE) known().bands[stage][team] = maps.qkv().count(team);
    if (stage == OUTPUT_STAGE) known().bands[stage][team] = maps.output().count(team);
    if (stage == GATED_STAGE) known().bands[stage][team] = maps.gated().count();
    if (stage == DOWN_STAGE) known().bands[stage][team] = maps.down().count(team);
}

// What blocks hand each other, and the numbers of a step's letters. A place is written again only when all blocks
// have read what was there: each has results among q, k and v, and of gate and up, which it can have only of all that came
// before, and what is written between two of these, nobody can write again without having them of all.
struct Mail {
    enum { OUTPUT_WORDS = OutputMap::Rows::SHARED_BYTES / 4, DOWN_WORDS = DownMap::Rows::SHARED_BYTES / 4 };
    const StepArgs &args;
    const StepMemory &memory;
    uint number;

    MEMBER Mail(const StepArgs &args, const StepMemory &memory) : args(args), memory(memory), number(0) {}
    // Added up where they are needed: registers are scarce.
    MEMBER ulong *row() const { return memory.mail + 8; }
    MEMBER ulong *qkv() const { return row() + args.qkv.shape.cols; }
    MEMBER ulong *partials() const { return qkv() + args.qkv.cols0 + args.qkv.cols1 + args.qkv.cols2; }
    MEMBER ulong *totals() const { return partials() + vectors() * Heads::VALUES; }
    MEMBER ulong *output() const { return totals() + 2 * vectors(); }
    MEMBER ulong *hidden() const { return output() + args.output.shape.n_tiles * OUTPUT_WORDS; }
    // Those that are not quantised yet.
    MEMBER ulong *singles() const { return hidden() + args.down.shape.n_tiles * DOWN_WORDS; }
    // What comes of splits for each head, at most, and of all heads.
    MEMBER uint most_folded() const { return n_chains(args.attention, args.max_splits); }
    MEMBER uint vectors() const { return args.attention.n_heads * most_folded(); }
    // Behind launches before this one: each step goes on counting.
    MEMBER void begin() { number = *(volatile uint *)memory.mail; }
    MEMBER void end() const { *(volatile uint *)memory.mail = number; }
    MEMBER void next() { number++; }
};

// What is under way together has slots of its own: of an older piece a slot's barrier no longer tells.
static_assert(STEP_PIECES <= STEP_MOST_PIECES && STEP_MOST_PIECES <= STEP_SLOTS, "pieces have slots");

// A SIMD-group's ring of slots, which another one fills.
struct StepRing {
    enum {
        SLOT_BYTES = larger_of(larger_of(QkvMaps::SLOT_BYTES, OutputMap::SLOT_BYTES),
                               larger_of(GatedMaps::SLOT_BYTES, DownMap::SLOT_BYTES)),
        BYTES = STEP_SLOTS * (SLOT_BYTES + 16)
    };
    // Not an address: that it is of shared memory would be forgotten.
    uint slots, barriers;

    MEMBER StepRing(uint simdgroup) : slots(simdgroup * STEP_SLOTS * SLOT_BYTES) {
        barriers = shared_address(shared_memory + STEP_SIMDGROUPS * STEP_SLOTS * SLOT_BYTES) + simdgroup * STEP_SLOTS * 16;
    }
    MEMBER uchar *slot(uint i) const { return shared_memory + slots + i % STEP_SLOTS * SLOT_BYTES; }
    MEMBER uint filled(uint i) const { return barriers + i % STEP_SLOTS * 16; }
    MEMBER uint emptied(uint i) const { return filled(i) + 8; }

    // By one lane.
    MEMBER void begin() const {
        for (uint i = 0; i < STEP_SLOTS; i++) barrier_init(filled(i), 1), barrier_init(emptied(i), 32);
        publish_barriers();
    }
    MEMBER const uchar *wait(uint i) const {
        barrier_wait(filled(i), i / STEP_SLOTS);
        return slot(i);
    }
    // Gives up a slot, by all lanes.
    MEMBER void done(uint i) const { barrier_arrive(emptied(i)); }
    MEMBER bool is_free(uint i) const { return i < STEP_SLOTS || barrier_has_ended(emptied(i), i / STEP_SLOTS - 1); }
    // Whether few enough copies are under way: what else is read waits behind them in the memory's queues.
    MEMBER bool is_quiet(uint i, uint most) const {
        return i < most || barrier_has_ended(filled(i - most), (i - most) / STEP_SLOTS);
    }
    MEMBER void copy(uint i, const uchar *from, uint bytes, ulong policy) const {
        barrier_expect(filled(i), bytes);
        copy_bulk_once(shared_address(slot(i)), from, bytes, filled(i), policy);
    }
};

// The weights of all maps, by stage, layer after layer.
struct StepWeights {
    const StepArgs &args;
    const StepMemory &memory;

    static MEMBER uint choose(uint stage, uint a, uint b, uint c, uint d) {
        return stage % STAGES < GATED_STAGE ? (stage % STAGES == QKV_STAGE ? a : b) : (stage % STAGES == GATED_STAGE ? c : d);
    }
    MEMBER uint n_tiles(uint stage) const {
        return choose(stage, args.qkv.shape.n_tiles, args.output.shape.n_tiles, args.gated.shape.n_tiles, args.down.shape.n_tiles);
    }
    MEMBER Band at(uint stage, uint nth, uint team) const {
        const StepMaps maps = {args, memory, stage / STAGES};
        if (stage % STAGES == QKV_STAGE) return maps.qkv().at(nth, team);
        if (stage % STAGES == OUTPUT_STAGE) return maps.output().at(nth, team);
        if (stage % STAGES == DOWN_STAGE) return maps.down().at(nth, team);
        return maps.gated().at(nth, team);
    }
};

#endif
#endif
