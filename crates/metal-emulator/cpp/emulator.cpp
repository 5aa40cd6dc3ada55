#include "emulator.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

namespace emulator {
namespace {

constexpr unsigned long STACK = 64 * 1024, PAGE = 4096;
constexpr unsigned MAX_SHARED = 64;

enum class State { Ready, AtSimd, AtBarrier, Done };
enum class Operation { Sum, Max, ShuffleXor, MaxUint, MinUint, SumUint, PrefixSumUint };

struct Fiber {
    void *stack_pointer;
    State state;
    const void *site;  // of the operation it waits at
    float value;       // its operand, then the result
    unsigned whole;    // the same of operations on whole numbers
    Operation operation;
    unsigned mask;           // of a shuffle
    unsigned matrices;       // that it has made and not dropped
    unsigned long done;      // operations on matrices
    unsigned long history;   // of these, as a hash
    unsigned long tensors;   // operations on tensors, as a hash
    Thread thread;
};

// Matrices of a SIMD-group, and the operations that some lane of it has done.
struct Matrices {
    Matrix places[MAX_MATRICES];
    unsigned long done;
};

// The threadgroup that is running.
struct {
    Fiber fibers[MAX_THREADS];
    unsigned n_threads;
    Fiber *current;
    void *host_stack_pointer;
    const Kernel *kernel;
    struct {
        const void *key;
        unsigned at;
    } shared[MAX_SHARED];
    unsigned n_shared, shared_used;
    Matrices matrices[MAX_THREADS / SIMD_WIDTH];
    char failure[256];
} group;

alignas(64) unsigned char threadgroup_memory[THREADGROUP_MEMORY];
unsigned char *stacks;
Kernel *kernels;

#if !defined(__x86_64__)
#error "the emulator's fibers know x86-64 only: add the switch for this processor"
#endif
// Saves the callee's registers and the stack pointer, and goes on at another.
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
extern "C" __attribute__((visibility("hidden"))) void emulator_switch(void **save, void *load);

// Back to the scheduler, which resumes the fiber when its operation is complete.
void yield(State state) {
    Fiber &me = *group.current;
    me.state = state;
    emulator_switch(&me.stack_pointer, group.host_stack_pointer);
}

void fiber_main() {
    group.kernel->entry(group.current->thread, group.kernel->parameters);
    yield(State::Done);
    __builtin_unreachable();
}

void start(Fiber &fiber, unsigned index) {
    // Below each stack lies a page that faults. Tops at the same place of each page would share few lines of the cache.
    void **top = (void **)(stacks + (index + 1) * (STACK + PAGE) - index % 32 * 128);
    *--top = nullptr;  // where a caller's address would lie, as the alignment of calls wants it
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.stack_pointer = top;
    fiber.state = State::Ready;
    fiber.matrices = 0;
    fiber.done = fiber.history = fiber.tensors = 0;
}

// Whether all fibers from `first` that still run are in `state` at one site.
bool all_at(State state, unsigned first, unsigned end) {
    const void *site = nullptr;
    for (unsigned i = first; i < end; i++) {
        const Fiber &fiber = group.fibers[i];
        // A thread that has returned cannot come to a barrier; a SIMD-group goes on without it.
        if (fiber.state == State::Done && state == State::AtSimd) continue;
        if (fiber.state != state || (site && fiber.site != site)) return false;
        site = fiber.site;
    }
    return site != nullptr;
}

// The result of one operation, the same for all lanes that it has operands of.
template <typename T, typename Combine> T combined(unsigned first, unsigned end, T Fiber::*operand, T so_far, Combine combine) {
    for (unsigned i = first; i < end; i++) {
        if (group.fibers[i].state == State::AtSimd) so_far = combine(so_far, group.fibers[i].*operand);
    }
    return so_far;
}

template <typename T> void give_all(unsigned first, unsigned end, T Fiber::*result, T value) {
    for (unsigned i = first; i < end; i++) group.fibers[i].*result = value;
}

void shuffle_lanes(unsigned first, unsigned end) {
    float values[SIMD_WIDTH];
    for (unsigned i = 0; i < SIMD_WIDTH; i++) {
        // What a lane that has returned would give is not defined.
        const bool is_there = first + i < end && group.fibers[first + i].state == State::AtSimd;
        values[i] = is_there ? group.fibers[first + i].value : __builtin_nanf("");
    }
    for (unsigned i = first; i < end; i++) {
        group.fibers[i].value = values[((i - first) ^ group.fibers[i].mask) % SIMD_WIDTH];
    }
}

// Lanes at one site are at one operation: one that waits there says which.
Operation operation_at(unsigned first, unsigned end) {
    while (first + 1 < end && group.fibers[first].state != State::AtSimd) first++;
    return group.fibers[first].operation;
}

void complete_simd(unsigned first, unsigned end) {
    const auto sum = [](auto a, auto b) { return a + b; };
    const auto largest = [](auto a, auto b) { return a < b || a != a ? b : a; };
    const auto least = [](unsigned a, unsigned b) { return a < b ? a : b; };
    switch (operation_at(first, end)) {
        case Operation::Sum: give_all(first, end, &Fiber::value, combined(first, end, &Fiber::value, 0.0f, sum)); break;
        case Operation::Max:
            give_all(first, end, &Fiber::value, combined(first, end, &Fiber::value, -__builtin_inff(), largest));
            break;
        case Operation::MaxUint: give_all(first, end, &Fiber::whole, combined(first, end, &Fiber::whole, 0u, largest)); break;
        case Operation::MinUint: give_all(first, end, &Fiber::whole, combined(first, end, &Fiber::whole, ~0u, least)); break;
        case Operation::SumUint: give_all(first, end, &Fiber::whole, combined(first, end, &Fiber::whole, 0u, sum)); break;
        case Operation::PrefixSumUint:
            for (unsigned i = first, so_far = 0; i < end; i++) {
                if (group.fibers[i].state == State::AtSimd) group.fibers[i].whole = so_far += group.fibers[i].whole;
            }
            break;
        case Operation::ShuffleXor: shuffle_lanes(first, end); break;
    }
    for (unsigned i = first; i < end; i++) {
        if (group.fibers[i].state == State::AtSimd) group.fibers[i].state = State::Ready;
    }
}

// All lanes of every SIMD-group must have done the same to the same matrices, and all threads to tensors.
void compare_operations() {
    for (unsigned i = 0; i < group.n_threads; i++) {
        const Fiber &fiber = group.fibers[i], &first = group.fibers[i / SIMD_WIDTH * SIMD_WIDTH];
        if (fiber.done != first.done || fiber.history != first.history) {
            fail("lanes of a SIMD-group diverged: they multiplied different matrices");
        }
        if (fiber.tensors != group.fibers[0].tensors) fail("threads diverged: they came to different tensor operations");
    }
}

unsigned long mixed(unsigned long history, unsigned long what) {
    history = (history ^ what) * 0x9e3779b97f4a7c15ul;
    return history ^ history >> 29;
}

// Completes the operations at which all have arrived; false when there is none.
bool complete() {
    bool any = false;
    for (unsigned first = 0; first < group.n_threads; first += SIMD_WIDTH) {
        const unsigned end = first + SIMD_WIDTH < group.n_threads ? first + SIMD_WIDTH : group.n_threads;
        if (!all_at(State::AtSimd, first, end)) continue;
        complete_simd(first, end);
        any = true;
    }
    if (!any && all_at(State::AtBarrier, 0, group.n_threads)) {
        compare_operations();
        for (unsigned i = 0; i < group.n_threads; i++) group.fibers[i].state = State::Ready;
        any = true;
    }
    return any;
}

void shuffle(unsigned short *order, unsigned n, unsigned long long &seed) {
    for (unsigned i = n; i > 1; i--) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        // Scales 32 random bits to less than `i` without a division.
        const unsigned j = (unsigned)((seed >> 32) * i >> 32);
        const unsigned short other = order[i - 1];
        order[i - 1] = order[j];
        order[j] = other;
    }
}

void report_divergence() {
    unsigned at_barrier = 0, at_simd = 0, done = 0;
    for (unsigned i = 0; i < group.n_threads; i++) {
        at_barrier += group.fibers[i].state == State::AtBarrier;
        at_simd += group.fibers[i].state == State::AtSimd;
        done += group.fibers[i].state == State::Done;
    }
    char what[160];
    snprintf(what, sizeof what,
             "threads diverged: %u wait at a barrier, %u at a SIMD-group operation, %u have returned", at_barrier,
             at_simd, done);
    fail(what);
}

void run_group(const Kernel &kernel, const Launch &launch, Size position, unsigned long long &seed) {
    group.kernel = &kernel;
    group.n_threads = launch.threads.x * launch.threads.y * launch.threads.z;
    group.n_shared = group.shared_used = 0;
    memset(threadgroup_memory, 0xff, sizeof threadgroup_memory);
    unsigned short order[MAX_THREADS];
    for (unsigned i = 0; i < group.n_threads; i++) {
        group.fibers[i].thread = Thread{i, &launch, position};
        group.matrices[i / SIMD_WIDTH].done = 0;
        start(group.fibers[i], i);
        order[i] = (unsigned short)i;
    }
    for (bool running = true; running && !group.failure[0];) {
        shuffle(order, group.n_threads, seed);
        unsigned done = 0;
        for (unsigned k = 0; k < group.n_threads; k++) {
            Fiber &fiber = group.fibers[order[k]];
            if (fiber.state == State::Ready) {
                group.current = &fiber;
                emulator_switch(&group.host_stack_pointer, fiber.stack_pointer);
            }
            done += fiber.state == State::Done;
        }
        running = done < group.n_threads;
        if (running && !complete()) report_divergence();
    }
    // What has failed may have stopped some of them.
    if (!group.failure[0]) compare_operations();
}

bool make_stacks() {
    if (stacks) return true;
    const unsigned long bytes = (STACK + PAGE) * MAX_THREADS;
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    stacks = (unsigned char *)memory;
    for (unsigned i = 0; i < MAX_THREADS; i++) mprotect(stacks + i * (STACK + PAGE), PAGE, PROT_NONE);
    return true;
}

// When the library is unloaded, which is loaded again for the next emulator.
__attribute__((destructor)) void free_stacks() {
    if (stacks) munmap(stacks, (STACK + PAGE) * MAX_THREADS);
}

}  // namespace

void fail(const char *what) {
    if (group.failure[0]) return;
    const Size at = group.fibers[0].thread.group;
    snprintf(group.failure, sizeof group.failure, "kernel %s, threadgroup (%u, %u, %u): %s", group.kernel->name, at.x,
             at.y, at.z, what);
}

void add_kernel(Kernel *kernel) {
    kernel->next = kernels;
    kernels = kernel;
}

static void meet(Operation operation, const void *site) {
    group.current->operation = operation;
    group.current->site = site;
    yield(State::AtSimd);
}

static float simd_operation(float value, Operation operation, unsigned mask, const void *site) {
    Fiber &me = *group.current;
    me.value = value;
    me.mask = mask;
    meet(operation, site);
    return me.value;
}

static unsigned simd_operation(unsigned whole, Operation operation, const void *site) {
    Fiber &me = *group.current;
    me.whole = whole;
    meet(operation, site);
    return me.whole;
}

float simd_sum(float value, const void *site) { return simd_operation(value, Operation::Sum, 0, site); }
float simd_max(float value, const void *site) { return simd_operation(value, Operation::Max, 0, site); }
unsigned simd_max(unsigned value, const void *site) { return simd_operation(value, Operation::MaxUint, site); }
unsigned simd_min(unsigned value, const void *site) { return simd_operation(value, Operation::MinUint, site); }
unsigned simd_sum(unsigned value, const void *site) { return simd_operation(value, Operation::SumUint, site); }
unsigned simd_prefix_inclusive_sum(unsigned value, const void *site) {
    return simd_operation(value, Operation::PrefixSumUint, site);
}
float simd_shuffle_xor(float value, unsigned mask, const void *site) {
    return simd_operation(value, Operation::ShuffleXor, mask, site);
}

static Matrices &own_matrices() { return group.matrices[group.current->thread.index / SIMD_WIDTH]; }

Matrix *make_matrix() {
    const unsigned place = group.current->matrices++;
    if (place < MAX_MATRICES) return &own_matrices().places[place];
    fail("more matrices than the emulator has room for");
    return &own_matrices().places[MAX_MATRICES - 1];
}

void drop_matrix() { group.current->matrices--; }

bool is_first_at_matrices(unsigned long operands, const void *site) {
    Fiber &me = *group.current;
    Matrices &ours = own_matrices();
    me.history = mixed(me.history, operands ^ (unsigned long)site);
    if (me.done++ < ours.done) return false;
    ours.done++;
    return true;
}

unsigned thread_index() { return group.current->thread.index; }

void come_to_tensors(unsigned n_simdgroups, unsigned long operands, const void *site) {
    if (n_simdgroups * SIMD_WIDTH != group.n_threads) fail("a tensor operation is not of all the threadgroup's SIMD-groups");
    group.current->tensors = mixed(group.current->tensors, operands ^ (unsigned long)site);
}

void barrier(const void *site) {
    group.current->site = site;
    yield(State::AtBarrier);
}

void *shared(const void *key, unsigned bytes) {
    for (unsigned i = 0; i < group.n_shared; i++) {
        if (group.shared[i].key == key) return threadgroup_memory + group.shared[i].at;
    }
    const unsigned at = (group.shared_used + 15) / 16 * 16;
    if (group.n_shared == MAX_SHARED || at + bytes > THREADGROUP_MEMORY) {
        fail("more threadgroup memory than Metal has (32768 bytes)");
        return threadgroup_memory;
    }
    group.shared[group.n_shared++] = {key, at};
    group.shared_used = at + bytes;
    return threadgroup_memory + at;
}

}  // namespace emulator

using namespace emulator;

extern "C" const Kernel *emulator_find(const char *name) {
    for (Kernel *kernel = kernels; kernel; kernel = kernel->next) {
        if (!strcmp(kernel->name, name)) return kernel;
    }
    return nullptr;
}

// Null, or what the kernel did wrong. One launch at a time.
extern "C" const char *emulator_launch(const Kernel *kernel, const Launch *launch) {
    group.failure[0] = 0;
    const unsigned long long threads = (unsigned long long)launch->threads.x * launch->threads.y * launch->threads.z;
    if (threads == 0 || threads > MAX_THREADS) return "a threadgroup has 1 to 1024 threads";
    if (!make_stacks()) return "no memory for stacks";
    unsigned long long seed = launch->seed;
    for (unsigned z = 0; z < launch->groups.z; z++) {
        for (unsigned y = 0; y < launch->groups.y; y++) {
            for (unsigned x = 0; x < launch->groups.x; x++) {
                run_group(*kernel, *launch, Size{x, y, z}, seed);
                if (group.failure[0]) return group.failure;
            }
        }
    }
    return nullptr;
}

// Zeroed memory whose end, rounded up to 16 bytes, touches a page that faults.
extern "C" void *emulator_allocate(unsigned long bytes) {
    const unsigned long body = (bytes + PAGE - 1) / PAGE * PAGE;
    void *memory = mmap(nullptr, body + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    mprotect((char *)memory + body, PAGE, PROT_NONE);
    return (char *)memory + (body - (bytes + 15) / 16 * 16);
}

extern "C" void emulator_free(void *memory, unsigned long bytes) {
    const unsigned long body = (bytes + PAGE - 1) / PAGE * PAGE;
    munmap((char *)memory - (body - (bytes + 15) / 16 * 16), body + PAGE);
}
