// How results of step.h's maps are handed on, by one SIMD-group of each block.
#ifndef QUARREL_STEP_RESULTS_H
#define QUARREL_STEP_RESULTS_H

#include "step_attention.h"

#if __CUDA_ARCH__ >= 900

// Hands results of a map on: what is added to is known to who wrote it.
template <typename M, bool ADD> struct SendMap {
    const StepMap<M> &map;
    ulong *const to;
    const uint number, team, index;
    float old;
    MEMBER SendMap(const StepMap<M> &map, ulong *to, uint number, uint team, uint index)
        : map(map), to(to), number(number), team(team), index(index), old(0) {}
    MEMBER uint block(uint nth) const { return StepMap<M>::block(nth, team); }
    MEMBER float total(const float *sums, bool is_other) const {
        sums += team * PARTS * M::SUMS;
        return is_other ? M::Other::total(sums, index, 0, map.args.shape) : M::First::total(sums, index, 0, map.args.shape);
    }
    MEMBER void begin(uint nth) {
        if (ADD) old = map.outputs.out[0][16 * block(nth) + index];
    }
    MEMBER void operator()(const float *sums, uint nth) const {
        const TileArgs &args = map.args;
        const uint block = SendMap::block(nth);
        const Output output(args, map.outputs, block, 1);
        float sum = total(sums, map.is_other(block));
        if (output.bias) sum += output.bias[16 * output.band + index];
        const float value = ADD ? fmaf(args.scale, sum, old) : args.scale * sum;
        send(to + 16 * block + index, value, number);
        if (ADD) map.outputs.out[0][16 * block + index] = value;
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
template <bool ADD, typename M> FN void write_map(Handover &handover, const StepMap<M> &map, ulong *to, uint number) {
    const uint half = threadIdx.x % 32 / 16;
    write_stage(handover, map.count(0), map.count(half), SendMap<M, ADD>(map, to, number, half, threadIdx.x % 16));
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
        write_map<false>(handover, maps.qkv(), mail.qkv(), mail.number);
        write_map<true>(handover, maps.output(), mail.residual(), mail.number);
        const uint n = maps.gated().count();
        write_stage(handover, n, n, SendGated(args, mail, lane));
        mail.next();
        write_map<true>(handover, maps.down(), mail.residual(), mail.number);
    }
    // All have read where the step's numbers begin: this block has had results of all.
    if (blockIdx.x == 0 && lane == 0) mail.end();
}

#endif
#endif
