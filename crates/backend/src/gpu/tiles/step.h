// All layers of a step of a single generated row in one launch.
//
// What limits such a step is bytes of weights, and of the time that they take nothing must be lost to waiting: for
// other blocks, and for instructions, which come from memory the first time that a launch needs them. So blocks stay
// from the first layer to the last, and a block's weights, of all maps of all layers, come in one stream that does not
// stop where a map ends: while blocks wait for each other the next map's weights fill the rings. Of a block's
// SIMD-groups sixteen multiply, three fill their rings, and one adds up what they leave and writes results, while they
// go on. Bands, splits and folds are those of few_rows.h, decode_attention.h and merge_attention.h: the same bits.
#ifndef QUARREL_STEP_H
#define QUARREL_STEP_H

#include "step_feed.h"
#include "step_results.h"

#if __CUDA_ARCH__ >= 900

// Goes through the layers, each stage behind the others' results.
FN void compute_step(const StepArgs &args, const StepMemory &memory) {
    Computing done = {0, 0};
    Mail mail(args, memory);
    wait_for_inputs();
    mail.begin();
    if (threadIdx.x == 0) StepAttention::find(args, memory);
    block_barrier();
    const StepAttention attention(args, memory);
    for (uint i = 0; i < STEP_LAYERS; i++) {
        const StepMaps maps = {args, memory, i};
        const Layer &layer = maps.layer();
        const TileShape &qkv = args.qkv.shape, &output = args.output.shape, &gated = args.gated.shape;
        if (i > 0) fetch_sent<QkvMaps::Rows>(mail.row(), mail.number, qkv, layer.norm);
        else fetch_row<QkvMaps::Rows>(0, 0, memory.residual, qkv.has_norm ? layer.norm : 0, qkv.cols, qkv.eps);
        mail.next();
        attention.begin(layer);
        done = compute(done, maps.qkv(), QKV_STAGE);
        attention.run(layer, mail);
        attention.fold(mail);

        fetch_words(mail.output(), mail.number, output.n_tiles * Mail::OUTPUT_WORDS);
        done = compute(done, maps.output(), OUTPUT_STAGE);

        fetch_sent<GatedMaps::Rows>(mail.row(), mail.number, gated, layer.gated_norm);
        const uint n = known().bands[GATED_STAGE][0];
        done = compute<GatedMaps>(done, gated.n_tiles, n, n, 0);

        fetch_hidden(args, mail);
        mail.next();
        done = compute(done, maps.down(), DOWN_STAGE);
    }
    allow_next();
}

// Registers of a thread: of the 96 that all begin with, who fills rings and writes leaves some to who multiplies, where blocks have
// several splits: else what is kept from one to the next lies partly in local memory, which is slow beside weights that are under
// way (docs/cuda.md, "A split of a long context"). Who takes waits until others have left as many, so that the counts must agree
// with `__launch_bounds__`. Only one architecture's compiler gives them out.
constexpr uint REGISTERS = 96, COMPUTING_REGISTERS = 104, OTHER_REGISTERS = 64, OTHER_SIMDGROUPS = STEP_FEEDERS + 1;
static_assert((STEP_SIMDGROUPS + OTHER_SIMDGROUPS) * REGISTERS ==
                  STEP_SIMDGROUPS * COMPUTING_REGISTERS + OTHER_SIMDGROUPS * OTHER_REGISTERS,
              "what is taken has been left");
static_assert(STEP_SIMDGROUPS % 4 == 0 && OTHER_SIMDGROUPS % 4 == 0, "four SIMD-groups take or leave together");
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
template <uint N> FN void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <uint N> FN void leave_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
#else
template <uint N> FN void take_registers() {}
template <uint N> FN void leave_registers() {}
#endif

FN void run_step(const StepArgs &args, const StepMemory &memory) {
    const StepWeights weights = {args, memory};
    const uint role = threadIdx.x / 32;
    if (role == STEP_SIMDGROUPS && threadIdx.x % 32 < STEP_SIMDGROUPS) StepRing(threadIdx.x % 32).begin();
    find_bands(args, memory);
    group_barrier();
    if (role < STEP_SIMDGROUPS) {
        if (STEP_SEVERAL) take_registers<COMPUTING_REGISTERS>();
        compute_step(args, memory);
    } else {
        if (STEP_SEVERAL) leave_registers<OTHER_REGISTERS>();
        if (role < STEP_SIMDGROUPS + STEP_FEEDERS) feed(weights, role - STEP_SIMDGROUPS);
        else write_step(args, memory);
    }
}

#endif
#endif
