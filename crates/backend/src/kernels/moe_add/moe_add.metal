// Mixture of experts: routing, gate and up of each row's experts, and their sum.
#include "moe_add.h"

// A SIMD-group a row.
kernel void moe_route(constant MoeArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                      device const float *logits [[buffer(2)]], device uint *experts [[buffer(3)]],
                      device float *shares [[buffer(4)]], BUILTINS) {
    const uint row = group.y * (group_size.x / 32) + simdgroup;
    if (row >= inputs[args.maps.maps.shape.end_at]) return;
    route(args, logits, experts, shares, row, lane);
}

// Gate and up, or one of them, of a row and one of its experts.
#define MOE_MAPS(NAME, FORMAT)                                                                            \
    kernel void NAME(constant MoeArgs &all [[buffer(0)]], device const uint *inputs [[buffer(1)]],        \
                     device const float *x [[buffer(2)]], device const float *norm [[buffer(3)]],         \
                     device const uint *experts [[buffer(4)]], device const uchar *w0 [[buffer(5)]],      \
                     device const uchar *w1 [[buffer(6)]], device float *out0 [[buffer(7)]],              \
                     device float *out1 [[buffer(8)]], BUILTINS) {                                        \
        constant TileArgs &maps = all.maps.maps;                                                          \
        uint place = group.x % all.groups;                                                                \
        const bool is_second = place >= maps.block1;                                                      \
        if (is_second) place -= maps.block1;                                                              \
        const Map map = {is_second ? w1 : w0, norm, is_second ? out1 : out0, maps.cols0, false, maps.cols0};\
        const uint slot = group.y * all.n_used + group.x / all.groups;                                    \
        const uint first_out = (place * (group_size.x / 32) + simdgroup) * 4;                             \
        if (group.y >= inputs[maps.shape.end_at]) return;                                                 \
        expert_rows<FORMAT>(all, x, norm, experts, map, first_out, group.y, slot, lane);                  \
    }

#define MOE_DOWN(NAME, FORMAT)                                                                            \
    kernel void NAME(constant MoeArgs &all [[buffer(0)]], device const uint *inputs [[buffer(1)]],        \
                     device const float *gate [[buffer(2)]], device const float *up [[buffer(3)]],        \
                     device const uint *experts [[buffer(4)]], device const float *shares [[buffer(5)]],  \
                     device const uchar *weight [[buffer(6)]], device float *residual [[buffer(7)]],      \
                     BUILTINS) {                                                                          \
        threadgroup float values[CHUNK];                                                                  \
        constant TileArgs &maps = all.maps.maps;                                                          \
        const Map map = {weight, gate, residual, maps.cols0, false, maps.cols0};                          \
        const uint first_out = (group.x * (group_size.x / 32) + simdgroup) * 4;                           \
        if (group.y >= inputs[maps.shape.end_at]) return;                                                 \
        add_experts<FORMAT>(all, experts, shares, gate, up, values, map, first_out, group.y, THREADS);    \
    }

#define MOE_ADD_OF(OP, FORMAT, NAME)       \
    MOE_MAPS(OP##_##NAME##_maps, FORMAT) \
    MOE_DOWN(OP##_##NAME##_down, FORMAT)

WEIGHT_FORMATS(MOE_ADD_OF, moe_add)
