// Attention of prompts, for one shape and format of keys and values.
#include "prompt_attention.h"

#ifndef ATTENTION_K
#define ATTENTION_K KvF16
#define ATTENTION_V KvF16
#define ATTENTION_K_DIM 128
#define ATTENTION_V_DIM 128
#endif

typedef Prompt<ATTENTION_K, ATTENTION_V, ATTENTION_K_DIM, ATTENTION_V_DIM> PromptShape;

// What the host gives the kernel.
#ifdef ATTENTION_SHARED
static_assert(PromptShape::SHARED_BYTES == ATTENTION_SHARED && PromptShape::THREADS == ATTENTION_THREADS, "the host's sizes");
#endif

extern "C" __global__ void __launch_bounds__(PromptShape::THREADS, PromptShape::MIN_BLOCKS)
    prompt_attention(const AttentionArgs args, const uint *inputs, const float *q, const uchar *k_cache,
                     const uchar *v_cache, float *out) {
    extern __shared__ __align__(1024) uchar shared[];
    prompt_attention<ATTENTION_K, ATTENTION_V, ATTENTION_K_DIM, ATTENTION_V_DIM>(args, inputs, q, k_cache, v_cache,
                                                                                 out, shared);
}
