// How results of step.h's maps are handed on, by one SIMD-group of each block.
#ifndef QUARREL_STEP_RESULTS_H
#define QUARREL_STEP_RESULTS_H

#include "step_attention.h"

#if __CUDA_ARCH__ >= 900

// Hands results of a map on: what is added to is known to who wrote it.
template <typename M, bool ADD, bool IN_PAIRS = false> struct SendMap {
    typedef StepMap<M, IN_PAIRS> Map;
    const Map &map;
    ulong *const to;
    const uint number, team, index;
    // Of the band that comes next.
    float old, bias;
    bool has_bias, is_other;
    MEMBER SendMap(const Map &map, ulong *to, uint number, uint team, uint index)
        : map(map), to(to), number(number), team(team), index(index), old(0), bias(0), has_bias(false), is_other(false) {}
    MEMBER uint block(uint nth) const { return Map::block(nth, team); }
    MEMBER float total(const float *sums, bool is_other) const {
        sums += team * PARTS * M::SUMS;
        return is_other ? M::Other::total(sums, index, 0, map.args.shape) : M::First::total(sums, index, 0, map.args.shape);
    }
    MEMBER void begin(uint nth) {
        const uint block = SendMap::block(nth);
        const Output output(map.args, map.outputs, block, 1);
        if (ADD) old = map.outputs.out[0][16 * block + index];
        has_bias = output.bias, is_other = map.is_other(block);
        if (has_bias) bias = output.bias[16 * output.band + index];
    }
    // The result, which is kept where it is what the next map adds to.
    MEMBER float result(const float *sums, uint nth) const {
        float sum = total(sums, is_other);
        if (has_bias) sum += bias;
        const float value = ADD ? fmaf(map.args.scale, sum, old) : map.args.scale * sum;
        if (ADD) map.outputs.out[0][16 * block(nth) + index] = value;
        return value;
    }
    MEMBER void operator()(const float *sums, uint nth) const { send(to + 16 * block(nth) + index, result(sums, nth), number); }
};

// The same of results that are added, a pair of bands at a time, rounded for the next maps, before which comes `norm`, if any.
template <typename M> struct SendBlocks {
    SendMap<M, true, true> map;
    const BlockLetters to;
    const float *norm;
    float weight;
    MEMBER SendBlocks(const StepMap<M, true> &map, ulong *to, const float *norm, uint number, uint team, uint index)
        : map(map, to, number, team, index), to(to, 16 * map.args.n_blocks), norm(norm), weight(1) {}
    MEMBER void begin(uint nth) {
        map.begin(nth);
        if (norm) weight = norm[16 * map.block(nth) + map.index];
    }
    MEMBER void operator()(const float *sums, uint nth) const {
        const float value = map.result(sums, nth);
        to.send_block(map.block(nth) / 2, value, value * weight, map.number);
    }
};

// Hands on `act(gate) * up` as the map of down takes it.
struct SendGated {
    const StepArgs &args;
    const Mail &mail;
    const uint index;
    float first;
    MEMBER SendGated(const StepArgs &args, const Mail &mail, uint index) : args(args), mail(mail), index(index), first(0) {}
    MEMBER void begin(uint) const {}
    MEMBER void operator()(const float *sums, uint nth) {
        typedef GatedMaps::First F;
        if (index >= 16) return;
        const TileShape &shape = args.gated.shape;
        const uint o = 16 * StepGated{args}.band(nth) + index;
        const float g = F::total(sums, index, 0, shape), u = F::total(sums + PARTS * F::SUMS, index, 0, shape);
        const float value = activate(g, is_gelu(args.gated)) * u;
        ulong *tile = mail.hidden() + o / 64 * Mail::DOWN_WORDS;
        if (results_of(args.gated) == ROUNDED) {
            const uint pair = float_to_bfloat(value), both = pair | __shfl_down_sync(0xffff, pair, 2) << 16;
            if (index / 2 % 2 == 0) send(tile + SplitRows<true, 1>::at(0, o % 64) / 4, both, mail.number);
        } else if (nth >= args.paired) {
            send(mail.singles() + o - 16 * StepGated::first_single(args), value, mail.number);
        } else if (nth % 2 == 0) {
            first = value;
        } else {
            send_pair(tile, o / 32 % 2, value);
        }
    }
    // As `quantise_pair`.
    MEMBER void send_pair(ulong *tile, uint block, float second) const {
        float m = larger_or_nan(fabsf(first), fabsf(second));
        for (uint i = 1; i < 16; i *= 2) m = larger_or_nan(m, __shfl_xor_sync(0xffff, m, i));
        const float inverse = m > 0 ? 127.0f / m : m;
        const int q0 = __float2int_rn(first * inverse), q1 = __float2int_rn(second * inverse);
        int total = q0 + q1;
        for (uint i = 1; i < 16; i *= 2) total += __shfl_xor_sync(0xffff, total, i);
        uint w0 = uint(q0 & 255) << 8 * (index % 4), w1 = uint(q1 & 255) << 8 * (index % 4);
        for (uint i = 1; i < 4; i *= 2) w0 |= __shfl_xor_sync(0xffff, w0, i), w1 |= __shfl_xor_sync(0xffff, w1, i);
        const uint at = index + 2 * block;
        if (index % 4 == 0) send(tile + at, w0, mail.number);
        if (index % 4 == 1) send(tile + at, w1, mail.number);
        // Words that stand for nothing are waited for like others.
        const float d = m / 127.0f, x = index / 4 == 0 ? d : d * float(total);
        if (index % 4 == 2 && index < 8) send(tile + 16 + 4 * (index / 4) + 2 * block, x, mail.number);
        if (index % 4 == 3 && index < 8) send(tile + 17 + 4 * (index / 4) + 2 * block, 0u, mail.number);
    }
};

// Writes the results of a stage, `n` bands of the first team and `own` of this half's.
template <typename Write> FN void write_stage(Handover &handover, uint n, uint own, Write write) {
    for (uint nth = 0; nth < n; nth++) {
        if (nth < own) write.begin(nth);
        handover.wait_for_sums();
        if (nth < own) write(handover.set(), nth);
        handover.taken();
    }
}

// Half of the SIMD-group has the bands of a team.
template <bool ADD, typename M>
FN void write_map(Handover &handover, const StepMap<M> &map, uint stage, ulong *to, uint number) {
    const uint half = threadIdx.x % 32 / 16;
    const uint *bands = known().bands[stage];
    write_stage(handover, bands[0], bands[half], SendMap<M, ADD>(map, to, number, half, threadIdx.x % 16));
}

// The same of a map whose results are added to the row.
template <typename M, bool IN_PAIRS>
FN void write_row(Handover &handover, const StepMap<M, IN_PAIRS> &map, uint stage, const Mail &mail, const TileShape &next,
                  const float *norm) {
    if constexpr (!IN_PAIRS) return write_map<true>(handover, map, stage, mail.row(), mail.number);
    else {
        const uint half = threadIdx.x % 32 / 16, n = known().bands[stage][0];
        write_stage(handover, n, n, SendBlocks<M>(map, mail.row(), next.has_norm ? norm : 0, mail.number, half, threadIdx.x % 16));
    }
}

// Of gate and up the first half has both teams'.
FN void write_step(const StepArgs &args, const StepMemory &memory) {
    const uint lane = threadIdx.x % 32;
    Handover handover;
    Mail mail(args, memory);
    wait_for_inputs();
    mail.begin();
    for (uint i = 0; i < STEP_LAYERS; i++) {
        const StepMaps maps = {args, memory, i};
        mail.next();
        write_map<false>(handover, maps.qkv(), QKV_STAGE, mail.qkv(), mail.number);
        write_row(handover, maps.output(), OUTPUT_STAGE, mail, args.gated.shape, maps.layer().gated_norm);
        const uint n = known().bands[GATED_STAGE][0];
        write_stage(handover, n, n, SendGated(args, mail, lane));
        mail.next();
        // What the last layer sends nobody reads.
        write_row(handover, maps.down(), DOWN_STAGE, mail, args.qkv.shape, memory.layers[min(i + 1, uint(STEP_LAYERS - 1))].norm);
    }
    // All have read where the step's numbers begin: this block has had results of all.
    if (blockIdx.x == 0 && lane == 0) mail.end();
}

#endif
#endif
