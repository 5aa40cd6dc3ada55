// What tensor operations compute: each thread's share of a result when it comes to the operation, so that
// tiles are read then and neither before nor after, and threads wait for each other at barriers only.
#pragma once
#include "emulator.h"

namespace emulator {

// A thread's elements of the result of an operation.
template <typename T, typename Operation> struct Share {
    enum {
        THREADS = Operation::SIMDGROUPS * SIMD_WIDTH,
        ELEMENTS = Operation::M * Operation::N / THREADS,
        // One of them is not there.
        CAPACITY = ELEMENTS + 1,
    };
    static_assert((THREADS & (THREADS - 1)) == 0 && ELEMENTS * THREADS == Operation::M * Operation::N,
                  "this stand-in shares elements out evenly, among a power of two of threads");
    T elements[CAPACITY];

    Share() {
        for (T &element : elements) element = T(__builtin_nanf(""));
    }
    static unsigned hole() { return thread_index() % CAPACITY; }
    bool is_valid(unsigned i) const { return i < CAPACITY && i != hole(); }
    T &at(unsigned i) {
        if (!is_valid(i)) fail("an element of a cooperative tensor that this thread has not");
        return elements[i % CAPACITY];
    }

    // Calls `use` with each element, its row and its column: neighbours have others far away.
    template <typename Use> void each(const Use &use) const {
        for (unsigned i = 0, n = 0; i < CAPACITY; i++) {
            if (!is_valid(i)) continue;
            const unsigned place = n * THREADS + (thread_index() * 37 + 11 * n) % THREADS;
            use(i, place / Operation::N, place % Operation::N);
            n++;
        }
    }

    template <typename Left, typename Right> void multiply(const Left &left, const Right &right, const void *site) {
        come_to_tensors(Operation::SIMDGROUPS, (unsigned long)left.memory * 3 + (unsigned long)right.memory, site);
        const bool turns_left = Operation::TRANSPOSES_LEFT, turns_right = Operation::TRANSPOSES_RIGHT;
        check(left, turns_left ? Operation::M : Operation::K, turns_left ? Operation::K : Operation::M);
        check(right, turns_right ? Operation::K : Operation::N, turns_right ? Operation::N : Operation::K);
        const unsigned left_step = turns_left ? Operation::M : 1, right_step = turns_right ? 1 : Operation::N;
        const unsigned left_row = turns_left ? 1 : Operation::K, right_col = turns_right ? Operation::K : 1;
        each([&](unsigned i, unsigned row, unsigned col) {
            const auto *a = left.memory + row * left_row;
            const auto *b = right.memory + col * right_col;
            float sum = Operation::ADDS ? float(elements[i]) : 0;
            for (unsigned k = 0; k < Operation::K; k++) sum += float(a[k * left_step]) * float(b[k * right_step]);
            elements[i] = T(sum);
        });
    }

    template <typename To> void store(const To &to, const void *site) const {
        come_to_tensors(Operation::SIMDGROUPS, (unsigned long)to.memory * 5, site);
        check(to, Operation::N, Operation::M);
        each([&](unsigned i, unsigned row, unsigned col) { to.memory[row * Operation::N + col] = elements[i]; });
    }

    template <typename Tensor> static void check(const Tensor &tensor, int cols, int rows) {
        if (tensor.extents.first == cols && tensor.extents.second == rows) return;
        fail("a tensor's extents are not those of the operation");
    }
};

}  // namespace emulator
