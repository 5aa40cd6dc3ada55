// Prompt rows: up to three linear maps in one launch, and the gated activation before a map.
#include "simd_prompts.h"

#include "activate.h"

#define SIMD_PROMPTS(OP, FORMAT, NAME)                                                                    \
    [[max_total_threads_per_threadgroup(128)]]                                                            \
    kernel void OP##_##NAME(MAP_BUFFERS(SimdArgs, args), BUILTINS) {                                      \
        threadgroup float memory[PromptMemory<FORMAT>::FLOATS];                                           \
        uint group_x = group.x;                                                                           \
        const Map map = PICK_MAP(group_x);                                                                \
        prompt_rows<FORMAT>(args, inputs, x, norm, map, memory, group_x, group.y, THREADS);               \
    }

WEIGHT_FORMATS(SIMD_PROMPTS, simd_prompts)

// `act(gate) * up`, a row of threadgroups a row: limited by the bytes of three rows, which are few against
// the map behind it; in the map itself it would be done again for every 64 outputs.
kernel void activate_prompts(constant SimdArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                             device const float *gate [[buffer(2)]], device const float *up [[buffer(3)]],
                             device float *out [[buffer(4)]], BUILTINS) {
    const uint col = group.x * group_size.x + thread_index, cols = args.maps.shape.cols;
    if (col >= cols) return;
    const ulong at = ulong(inputs[args.maps.shape.first_at] + group.y) * cols + col;
    out[at] = activate(gate[at], args.gelu_tanh) * up[at];
}
