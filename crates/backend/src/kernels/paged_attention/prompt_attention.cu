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

// Where no multiprocessor has two blocks, one may have all registers: then products are not waited for one by one.
#ifdef ATTENTION_ALONE
#define PROMPT_BLOCKS 1
#else
#define PROMPT_BLOCKS PromptShape::MIN_BLOCKS
#endif

extern "C" __global__ void __launch_bounds__(PromptShape::THREADS, PROMPT_BLOCKS)
    prompt_attention(const AttentionArgs args, const uint *inputs, const float *q, const uchar *k_cache,
                     const uchar *v_cache, float *out) {
    extern __shared__ __align__(1024) uchar shared[];
    prompt_attention<ATTENTION_K, ATTENTION_V, ATTENTION_K_DIM, ATTENTION_V_DIM>(args, inputs, q, k_cache, v_cache,
                                                                                 out, shared);
}
