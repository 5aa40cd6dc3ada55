// `KERNEL(name, Keys, Values)` for each pair of formats.
#ifndef QUARREL_KV_PAIRS_H
#define QUARREL_KV_PAIRS_H

// Every format of keys with every format of values, or the pair that is wanted.
#ifndef KV_PAIRS
#define KV_PAIRS(KERNEL)                                    \
    KERNEL(f32_f32, KvF32, KvF32)                           \
    KERNEL(f32_f16, KvF32, KvF16)                           \
    KERNEL(f32_bf16, KvF32, KvBF16)                         \
    KERNEL(f32_q8_0, KvF32, KvQ8_0)                         \
    KERNEL(f32_fp8, KvF32, KvFP8)                           \
    KERNEL(f16_f32, KvF16, KvF32)                           \
    KERNEL(f16_f16, KvF16, KvF16)                           \
    KERNEL(f16_bf16, KvF16, KvBF16)                         \
    KERNEL(f16_q8_0, KvF16, KvQ8_0)                         \
    KERNEL(f16_fp8, KvF16, KvFP8)                           \
    KERNEL(bf16_f32, KvBF16, KvF32)                         \
    KERNEL(bf16_f16, KvBF16, KvF16)                         \
    KERNEL(bf16_bf16, KvBF16, KvBF16)                       \
    KERNEL(bf16_q8_0, KvBF16, KvQ8_0)                       \
    KERNEL(bf16_fp8, KvBF16, KvFP8)                         \
    KERNEL(q8_0_f32, KvQ8_0, KvF32)                         \
    KERNEL(q8_0_f16, KvQ8_0, KvF16)                         \
    KERNEL(q8_0_bf16, KvQ8_0, KvBF16)                       \
    KERNEL(q8_0_q8_0, KvQ8_0, KvQ8_0)                       \
    KERNEL(q8_0_fp8, KvQ8_0, KvFP8)                         \
    KERNEL(fp8_f32, KvFP8, KvF32)                           \
    KERNEL(fp8_f16, KvFP8, KvF16)                           \
    KERNEL(fp8_bf16, KvFP8, KvBF16)                         \
    KERNEL(fp8_q8_0, KvFP8, KvQ8_0)                         \
    KERNEL(fp8_fp8, KvFP8, KvFP8)
#endif

#endif
