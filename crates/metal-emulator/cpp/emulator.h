// Runs Metal kernels on the CPU with a GPU's rules. Each GPU thread is a fiber;
// barriers and SIMD-group operations are where fibers meet. Included in front
// of kernel text, so no header of the C library here.
#pragma once

namespace emulator {

constexpr unsigned SIMD_WIDTH = 32, MAX_THREADS = 1024, MAX_BUFFERS = 31;
constexpr unsigned THREADGROUP_MEMORY = 32768;

struct Size {
    unsigned x, y, z;
};

// What a kernel's parameter is bound to.
enum class Binding : unsigned char {
    Buffer,
    ThreadgroupPosition,
    ThreadsPerThreadgroup,
    ThreadIndex,
    Lane,
    Simdgroup,
};

struct Parameter {
    Binding binding;
    unsigned char index;
};

struct Launch {
    Size groups;
    Size threads;
    void *buffers[MAX_BUFFERS];
    unsigned long long seed;  // of the order in which threads run
};

struct Group;

// One GPU thread, as its kernel sees it.
struct Thread {
    unsigned index;
    const Launch *launch;
    Size group;
};

typedef void (*Entry)(const Thread &, const Parameter *);

struct Kernel {
    const char *name;
    Entry entry;
    const Parameter *parameters;
    Kernel *next;
};

// Kernels register themselves from static constructors.
void add_kernel(Kernel *kernel);

// The sum of all lanes' values, in the order of lanes. `site` tells operations apart.
float simd_sum(float value, const void *site) __attribute__((convergent));
// The largest of all lanes' values.
float simd_max(float value, const void *site) __attribute__((convergent));
unsigned simd_max(unsigned value, const void *site) __attribute__((convergent));
// The smallest.
unsigned simd_min(unsigned value, const void *site) __attribute__((convergent));
unsigned simd_sum(unsigned value, const void *site) __attribute__((convergent));
// The sum of the values of this lane and those before it.
unsigned simd_prefix_inclusive_sum(unsigned value, const void *site) __attribute__((convergent));
// The value of the lane whose number differs in the bits of `mask`.
float simd_shuffle_xor(float value, unsigned mask, const void *site) __attribute__((convergent));
void barrier(const void *site) __attribute__((convergent));

// A matrix of 8x8 that the lanes of a SIMD-group hold together. Which lane has which element is nobody's
// business, so they are in one place, and the first lane that comes to an operation does all of it: any order
// of lanes is one that the hardware may have, and lanes meet at barriers only.
struct Matrix {
    float elements[64];
};
constexpr unsigned MAX_MATRICES = 128;
// The place of the matrix that this lane makes, and the end of the one that it made last.
Matrix *make_matrix();
void drop_matrix();
// Whether this lane is the first at an operation; lanes must come to the same ones with the same `operands`.
bool is_first_at_matrices(unsigned long operands, const void *site);

// Says what the kernel that runs did wrong.
void fail(const char *what);
// The thread that runs, in its threadgroup.
unsigned thread_index();
// Notes that this thread comes to a tensor operation of so many SIMD-groups with `operands`: all threads of the
// threadgroup must come to the same ones, and do not wait for each other.
void come_to_tensors(unsigned n_simdgroups, unsigned long operands, const void *site) __attribute__((convergent));

// Memory shared by the threadgroup: the same for equal keys, NaN until written.
void *shared(const void *key, unsigned bytes);

}  // namespace emulator
