// Copies to shared memory that go on while a SIMD-group computes: every one has
// a ring of slots of its own. Who gives a slot up has multiplied what it read there: the copy engine does not wait
// for loads that are under way.
#ifndef QUARREL_RING_H
#define QUARREL_RING_H

#include "copies.h"

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
            for (uint i = 0; i < SLOTS; i++) barrier_init(barriers + 8 * i, 1);
            publish_barriers();
        }
        __syncwarp();
#endif
    }

    MEMBER uchar *slot(uint i) const { return slots + i % SLOTS * SLOT_BYTES; }

    // By one lane, before the copies.
    MEMBER void expect(uint i, uint bytes) const {
#if __CUDA_ARCH__ >= 900
        barrier_expect(barriers + 8 * (i % SLOTS), bytes);
#endif
    }

    // Copies `bytes`, a multiple of 16 as both addresses are; by one lane on its own.
    MEMBER void copy(uint i, uchar *to, const uchar *from, uint bytes) const {
#if __CUDA_ARCH__ >= 900
        copy_bulk(shared_address(to), from, bytes, barriers + 8 * (i % SLOTS));
#elif __CUDA_ARCH__ >= 800
        for (uint at = 0; at < bytes; at += 16) copy_quad(shared_address(to + at), from + at);
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
        commit_copies();
#endif
    }

    // Waits for what was copied to the `i`th slot that was closed.
    MEMBER const uchar *wait(uint i) const {
#if __CUDA_ARCH__ >= 900
        barrier_wait(barriers + 8 * (i % SLOTS), i / SLOTS);
#elif __CUDA_ARCH__ >= 800
        wait_for_copies<SLOTS - 1>();
        __syncwarp();
#endif
        return slot(i);
    }
};

#endif
