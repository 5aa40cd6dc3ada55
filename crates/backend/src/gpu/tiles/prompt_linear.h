// What becomes of the products of prompt rows: see prompt_product.h.
#ifndef QUARREL_PROMPT_LINEAR_H
#define QUARREL_PROMPT_LINEAR_H

#include "activate.h"
#include "maps.h"
#include "prompt_memory.h"
#include "prompt_product.h"

// With few sums a thread, two blocks share a multiprocessor. A block has 256
// threads, and 128 more to copy where there is a copy engine.
#if MATRIX_UNIT == 90
#define PROMPT_BOUNDS(TOKENS) __launch_bounds__(384, TOKENS == 64 ? 2 : 1)
#else
#define PROMPT_BOUNDS(TOKENS) __launch_bounds__(256, 2)
#endif

#if MATRIX_UNIT > 0

// Sums of gate and of up, 64 outputs a row, in the ring's memory; the pitch keeps banks apart.
#define GATED_PITCH 68u

template <typename Packing, uint TOKENS>
FN uchar *ring_memory() {
    constexpr uint ring = PromptRing<Packing, TOKENS>::BYTES, sums = 2 * TOKENS * GATED_PITCH * 4;
    static_assert(PromptMemory<Placed<Packing>::OWN, Packing::SHARED, TOKENS>::BYTES == 1024 + (ring > sums ? ring : sums), "the host's size");
    extern __shared__ uchar memory[];
    return memory + (0u - shared_address(memory)) % 1024;
}

// Which of a block's 8 bands of weights this thread copies.
FN uint copier() {
    return MATRIX_UNIT == 90 ? threadIdx.x / 32 % 4 * 2 + threadIdx.x % 2 : threadIdx.x / 32;
}

// As `Output::write` for all of a block's sums of rows from `first_row` on; no map of
// prompt rows caps its results. Reads go ahead of writes, many at once.
template <uint TOKENS, bool ADD>
FN void write_rows(const Output &output, float scale, uint first_row, uint n_rows, const float (&sums)[TOKENS / 2]) {
    const Places<TOKENS> places;
    const uint batch = TOKENS == 64 ? 16 : 32, n = output.band * TILE_ROWS + places.first_output;
    float *out = output.out + ulong(first_row) * output.cols;
    float biases[2 * Places<TOKENS>::DOWN];
    UNROLL
    for (uint i = 0; i < 2 * Places<TOKENS>::DOWN; i++) {
        biases[i] = output.bias && n + 8 * i < output.cols ? output.bias[n + 8 * i] : 0;
    }
    UNROLL
    for (uint first = 0; first < TOKENS / 2; first += batch) {
        float old[batch];
        UNROLL
        for (uint i = 0; i < batch; i++) {
            const uint token = places.token(first + i), nth = places.nth_output(first + i);
            const bool wanted = ADD && token < n_rows && n + 8 * nth < output.cols;
            old[i] = wanted ? out[ulong(token) * output.cols + n + 8 * nth] : 0;
        }
        UNROLL
        for (uint i = 0; i < batch; i++) {
            const uint token = places.token(first + i), nth = places.nth_output(first + i);
            const float sum = sums[first + i] + biases[nth];
            if (token >= n_rows || n + 8 * nth >= output.cols) continue;
            out[ulong(token) * output.cols + n + 8 * nth] = ADD ? fmaf(scale, sum, old[i]) : scale * sum;
        }
    }
}

// 128 outputs of one of the maps.
template <typename Packing, uint TOKENS, bool ADD>
FN void prompt_linear(const TileArgs &args, const uint *inputs, const ushort *x, const Outputs &outputs) {
    const BlockPlace place;
    const uint first_row = place.rows * TOKENS;
    const Output output(args, outputs, place.outputs, 8);
    const Operands from =
        operands(args.shape, inputs, x, first_row, output.weight, output.cols, output.band + copier(), Packing::BYTES);
    if (from.n_rows <= 0) return wait_for_inputs();
    allow_next();
    float sums[TOKENS / 2];
    if (!multiply_all(PromptRing<Packing, TOKENS>{ring_memory<Packing, TOKENS>()}, from, sums)) return;
    write_rows<TOKENS, ADD>(output, args.scale, inputs[args.shape.first_at] + first_row, uint(from.n_rows), sums);
}

template <uint TOKENS>
FN void stage_sums(const float (&sums)[TOKENS / 2], float *staged) {
    const Places<TOKENS> places;
    float *to = staged + places.first_output / 64 * TOKENS * GATED_PITCH + places.first_output % 64;
    UNROLL
    for (uint i = 0; i < TOKENS / 2; i++) {
        to[places.token(i) * GATED_PITCH + places.nth_output(i) * 8] = sums[i];
    }
}

// Of a row's 64 outputs, the 8 that stand in 16-byte chunk `chunk`, from `n` on of all.
FN uint4 gated_chunk(const GatedArgs &args, const float *gate, const float *up, uint n, uint chunk) {
    uint pairs[4];
    UNROLL
    for (uint t = 0; t < 4; t++) {
        const uint column = chunk / 2 * 16 + 4 * t + chunk % 2;
        float value[2];
        UNROLL
        for (uint j = 0; j < 2; j++) {
            const uint at = column + 2 * j;
            const float product = activate(gate[at], args.gelu_tanh) * up[at];
            value[j] = n + at < args.cols ? product : 0;
        }
        pairs[t] = pack_bf16(value[0], value[1]);
    }
    return uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
}

// `out = act(gate) * up` of rows from `first_row` on, the `nth` 64 outputs, as the next map's x. Four bands
// of a block's weights are gate's, four up's; they meet in shared memory.
template <typename Packing, uint TOKENS>
FN void gated_rows(const GatedArgs &args, const Operands &from, uint first_row, uint nth, ushort *out) {
    const PromptRing<Packing, TOKENS> ring = {ring_memory<Packing, TOKENS>()};
    float sums[TOKENS / 2];
    if (!multiply_all(ring, from, sums)) return;

    float *staged = (float *)ring.start;
    workers_barrier();
    stage_sums<TOKENS>(sums, staged);
    workers_barrier();
    const uint chunk = threadIdx.x % 8;
    uint4 *to = (uint4 *)(out + (ulong(nth) * args.shape.x_rows + first_row) * STEP_COLS);
    UNROLL_BY(1)
    for (uint token = threadIdx.x / 8; token < TOKENS && token < uint(from.n_rows); token += 32) {
        const float *gates = staged + token * GATED_PITCH, *ups = gates + TOKENS * GATED_PITCH;
        to[token * 8 + chunk_place(chunk, token)] = gated_chunk(args, gates, ups, nth * 64, chunk);
    }
}

template <typename Packing, uint TOKENS>
FN void prompt_gated(const GatedArgs &args, const uint *inputs, const ushort *x, const uchar *gate, const uchar *up,
                     ushort *out) {
    const BlockPlace place;
    const uint first_row = place.rows * TOKENS;
    const Operands from = operands(args.shape, inputs, x, first_row, copier() < 4 ? gate : up, args.cols,
                                   place.outputs * 4 + copier() % 4, Packing::BYTES);
    if (from.n_rows <= 0) return wait_for_inputs();
    allow_next();
    gated_rows<Packing, TOKENS>(args, from, first_row, place.outputs, out);
}

#define PROMPT_BODY(CALL) CALL
#else
#define PROMPT_BODY(CALL) __trap()
#endif

// For `OF_ROWS`: 256 only where the units that have asynchronous accumulators have registers for them.
#if MATRIX_UNIT == 90
#define PROMPT_TOKENS(KERNELS, OP, PACKING, NAME) \
    KERNELS(OP, PACKING, NAME, 64) KERNELS(OP, PACKING, NAME, 128) KERNELS(OP, PACKING, NAME, 256)
#else
#define PROMPT_TOKENS(KERNELS, OP, PACKING, NAME) KERNELS(OP, PACKING, NAME, 64) KERNELS(OP, PACKING, NAME, 128)
#endif

#endif
