// Prompt rows by tensor operations: up to three linear maps in one launch.
#include <metal_stdlib>
#include <metal_tensor>
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>

#include "tensor_prompts.h"

#define SIMD_TENSORS(OP, FORMAT, NAME)                                                                    \
    [[max_total_threads_per_threadgroup(128)]]                                                            \
    kernel void OP##_##NAME(MAP_BUFFERS(SimdArgs, args), BUILTINS) {                                      \
        threadgroup float4 memory[TensorMemory<FORMAT>::FLOATS / 4];                                      \
        uint group_x = group.x;                                                                           \
        const Map map = PICK_MAP(group_x);                                                                \
        tensor_rows<FORMAT>(args, inputs, x, norm, map, (threadgroup float *)memory, group_x, group.y,    \
                            THREADS);                                                                     \
    }

WEIGHT_FORMATS(SIMD_TENSORS, simd_tensors)
