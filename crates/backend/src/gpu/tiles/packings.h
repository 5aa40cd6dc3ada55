// The packings that kernels over tiles are made for; whoever needs those of one alone defines it before.
#ifndef WEIGHT_FORMATS
#define WEIGHT_FORMATS(KERNELS, OP) \
    KERNELS(OP, P2A, p2a)           \
    KERNELS(OP, P4, p4)             \
    KERNELS(OP, P4A, p4a)           \
    KERNELS(OP, P8, p8)             \
    KERNELS(OP, P8A, p8a)           \
    KERNELS(OP, P8S, p8s)           \
    KERNELS(OP, P16, p16)
#endif
