// Likeliest tokens, and carrying them to the next step.
#include "choose.h"

kernel void maxima(constant ChooseArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                   device const float *logits [[buffer(2)]], device uint *maxima [[buffer(3)]], BUILTINS) {
    chunk_maxima(args, inputs, logits, maxima, group.x, group.y, THREADS);
}

[[max_total_threads_per_threadgroup(1024)]]
kernel void choose(constant ChooseArgs &args [[buffer(0)]], device const uint *inputs [[buffer(1)]],
                   device const float *logits [[buffer(2)]], device uint *maxima [[buffer(3)]],
                   device uint *chosen [[buffer(4)]], BUILTINS) {
    threadgroup uint largest[32];
    choose_row(args, inputs, logits, maxima, chosen, largest, group.y, THREADS);
}

kernel void carry(constant CarryArgs &args [[buffer(0)]], device uint *inputs [[buffer(1)]],
                  device const uint *chosen [[buffer(2)]], BUILTINS) {
    carry_id(args, inputs, chosen, group.x * group_size.x + thread_index);
}
