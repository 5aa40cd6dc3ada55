// The packings that kernels over tiles are made for; whoever needs those of one alone defines it before.
#ifndef WEIGHT_FORMATS
#define WEIGHT_FORMATS(KERNELS, OP) \
    KERNELS(OP, P2A, p2a)           \
    KERNELS(OP, P4, p4)             \
    KERNELS(OP, P4A, p4a)           \
    KERNELS(OP, P4K, p4k)           \
    KERNELS(OP, P4S, p4s)           \
    KERNELS(OP, P5, p5)             \
    KERNELS(OP, P5A, p5a)           \
    KERNELS(OP, P6S, p6s)           \
    KERNELS(OP, P8, p8)             \
    KERNELS(OP, P16, p16)
#endif

// `KERNELS(OP, PACKING, NAME, ROWS)` for all numbers of rows that a block may do, as `ALL` lists them; or for ROWS_EACH
// alone, where who compiles waits for it.
#ifdef ROWS_EACH
#define OF_ROWS(ALL, KERNELS, OP, PACKING, NAME) OF_SOME_ROWS(KERNELS, OP, PACKING, NAME, ROWS_EACH)
#define OF_SOME_ROWS(KERNELS, OP, PACKING, NAME, ROWS) KERNELS(OP, PACKING, NAME, ROWS)
#else
#define OF_ROWS(ALL, KERNELS, OP, PACKING, NAME) ALL(KERNELS, OP, PACKING, NAME)
#endif
