// Copies to shared memory that go on while a SIMD-group computes: every one has
// a ring of slots of its own.
#ifndef QUARREL_RING_H
#define QUARREL_RING_H

#include "cuda.h"

// SLOTS slots of SLOT_BYTES. Copies into a slot are announced together by `expect`, made by any
// lanes, and closed by `close`; slots are waited for in the order in which they were closed.
template <uint SLOT_BYTES, uint SLOTS> struct Ring {
    enum { BARRIER_BYTES = (8 * SLOTS + 15) / 16 * 16, BYTES = BARRIER_BYTES + SLOTS * SLOT_BYTES };
    uchar *slots;
    uint barriers;

    // `memory` is the SIMD-group's own, BYTES of it at a multiple of 16.
    MEMBER void begin(uchar *memory) {
        slots = memory + BARRIER_BYTES, barriers = shared_address(memory);
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x % 32 == 0) {
            UNROLL
            for (uint i = 0; i < SLOTS; i++) {
                asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barriers + 8 * i) : "memory");
            }
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        }
        __syncwarp();
#endif
    }

    MEMBER uchar *slot(uint i) const { return slots + i % SLOTS * SLOT_BYTES; }

    // By one lane, before the copies.
    MEMBER void expect(uint i, uint bytes) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barriers + 8 * (i % SLOTS)), "r"(bytes)
                     : "memory");
#endif
    }

    // Copies `bytes`, a multiple of 16 as both addresses are; by one lane on its own.
    MEMBER void copy(uint i, uchar *to, const uchar *from, uint bytes) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                         shared_address(to)),
                     "l"(from), "r"(bytes), "r"(barriers + 8 * (i % SLOTS))
                     : "memory");
#elif __CUDA_ARCH__ >= 800
        for (uint at = 0; at < bytes; at += 16) {
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to + at)), "l"(from + at)
                         : "memory");
        }
#endif
    }

    // The same by all lanes together, announced.
    MEMBER void copy_together(uint i, const uchar *from, uint bytes) const {
        const uint lane = threadIdx.x % 32;
#if __CUDA_ARCH__ >= 900
        if (lane == 0) {
            expect(i, bytes);
            copy(i, slot(i), from, bytes);
        }
#else
        for (uint at = 16 * lane; at < bytes; at += 16 * 32) copy(i, slot(i) + at, from + at, 16);
#endif
    }

    // By all lanes, also for a slot that gets nothing.
    MEMBER void close() const {
#if __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 900
        asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    }

    // Waits for what was copied to the `i`th slot that was closed.
    MEMBER const uchar *wait(uint i) const {
#if __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred done;\nagain:\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(
                         barriers + 8 * (i % SLOTS)),
                     "r"(i / SLOTS % 2)
                     : "memory");
#elif __CUDA_ARCH__ >= 800
        asm volatile("cp.async.wait_group %0;" ::"n"(SLOTS - 1) : "memory");
        __syncwarp();
#endif
        return slot(i);
    }
};

#endif
