// Choosing tokens, and carrying them to the next step.
#include "choose.h"

[[max_total_threads_per_threadgroup(1024)]]
kernel void choose(constant ChooseArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                   device const float *logits [[buffer(2)]], device uint *chosen [[buffer(3)]], BUILTINS) {
    threadgroup float best_logits[1024];
    threadgroup uint best_ids[1024];
    choose_row(args, inputs, logits, chosen, best_logits, best_ids, group.y, THREADS);
}

kernel void carry(constant CarryArgs &args [[buffer(0)]], device uint *inputs [[buffer(1)]],
                  device const uint *chosen [[buffer(2)]], BUILTINS) {
    carry_id(args, inputs, chosen, group.x * group_size.x + thread_index);
}
