// Asynchronous copies from global to shared memory, and the barriers that tell of
// their end, as PTX.
#ifndef QUARREL_COPIES_H
#define QUARREL_COPIES_H

#include "cuda.h"

FN uint shared_address(const void *p) { return uint(__cvta_generic_to_shared(p)); }

// Sixteen bytes to shared memory, past the first cache.
FN void copy_quad(uint to, const void *from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#else
    asm volatile("trap;");
#endif
}
FN void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until at most N of this thread's groups are under way.
template <uint N> FN void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

#if __CUDA_ARCH__ >= 900

// Barriers in shared memory: phases count from 0, each ends when `count` threads
// have arrived and the bytes announced have come.
FN void barrier_init(uint barrier, uint count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
FN void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
FN void barrier_arrive(uint barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
FN void barrier_expect(uint barrier, uint bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
FN void barrier_wait(uint barrier, uint phase) {
    uint done;
    do {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                     : "=r"(done)
                     : "r"(barrier), "r"(phase % 2)
                     : "memory");
    } while (!done);
}

// Whether a phase has ended.
FN bool barrier_has_ended(uint barrier, uint phase) {
    uint done;
    asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(done)
                 : "r"(barrier), "r"(phase % 2)
                 : "memory");
    return done;
}

// A multiple of 16 bytes to shared memory, by the copy engine.
FN void copy_bulk(uint to, const void *from, uint bytes, uint barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

// The same of what is read once: it shall not take the second cache from what is read again.
FN ulong read_once() {
    ulong policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}
FN void copy_bulk_once(uint to, const void *from, uint bytes, uint barrier, ulong policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
                 : "memory");
}

#endif
#endif
