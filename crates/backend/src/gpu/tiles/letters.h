// Words that blocks of a launch hand each other, each with a number that says whether it has come: who waits for a
// word reads it until it has its number, and nobody has to say that it is there.
#ifndef QUARREL_LETTERS_H
#define QUARREL_LETTERS_H

#include "cuda.h"

#if __CUDA_ARCH__ >= 900

FN void send(ulong *to, uint word, uint number) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(ulong(number) << 32 | word) : "memory");
}
FN void send(ulong *to, float value, uint number) { send(to, bits_of_float(value), number); }

// Two that lie side by side, at a multiple of 16 bytes.
struct TwoLetters {
    ulong first, second;
    MEMBER void read(const ulong *from) {
        asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(first), "=l"(second) : "l"(from) : "memory");
    }
    MEMBER bool have(uint number) const { return uint(first >> 32) == number && uint(second >> 32) == number; }
    MEMBER void receive(const ulong *from, uint number) {
        do read(from);
        while (!have(number));
    }
};

// `n` words, an even number, to shared memory, by all threads that compute.
FN void receive_words(uint *to, const ulong *from, uint n, uint number) {
    for (uint i = 2 * threadIdx.x; i < n; i += 2 * n_threads()) {
        TwoLetters two;
        two.receive(from + i, number);
        *(uint2 *)(to + i) = make_uint2(uint(two.first), uint(two.second));
    }
}

// Four floats.
FN float4 receive_four(const ulong *from, uint number) {
    TwoLetters a, b;
    b.receive(from + 2, number);
    a.receive(from, number);
    const float4 four = {float_of_bits(uint(a.first)), float_of_bits(uint(a.second)), float_of_bits(uint(b.first)), float_of_bits(uint(b.second))};
    return four;
}

#endif
#endif
