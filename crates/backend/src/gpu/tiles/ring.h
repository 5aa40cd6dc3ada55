// Weights and activations on their way through shared memory: every SIMD-group
// has a ring of its own and keeps it full. Weights are asked for before the
// activations are there.
#ifndef QUARREL_RING_H
#define QUARREL_RING_H

#include "cuda.h"

// One lane's copy of `bytes`, a multiple of 16 as both addresses are; `barrier` learns of its end.
FN void copy_to_shared(uchar *to, const uchar *from, uint bytes, uint barrier) {
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
#elif __CUDA_ARCH__ >= 800
    for (uint i = 0; i < bytes; i += 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to + i)), "l"(from + i) : "memory");
    }
#endif
}

// SLOTS pieces of CHUNK tiles of each of BANDS bands, and of the rows that meet them.
template <typename Tile, typename Rows, uint BANDS, uint CHUNK, uint SLOTS> struct Ring {
    enum {
        WEIGHT_BYTES = BANDS * CHUNK * Tile::BYTES,
        SLOT_BYTES = WEIGHT_BYTES + CHUNK * Rows::SHARED_BYTES,
        BARRIER_BYTES = (8 * SLOTS + 15) / 16 * 16,
        BYTES = BARRIER_BYTES + SLOTS * SLOT_BYTES
    };
    uchar *slots;
    uint barriers;
    const uchar *weights, *rows;  // the first tile's, of the first band
    uint n_tiles;
    ulong band_stride;
    uint n_bands;
    uint row_stride, n_row_tiles;

    // `memory` is the SIMD-group's own, BYTES of it at a multiple of 16.
    MEMBER void begin(uchar *memory) {
        slots = memory + BARRIER_BYTES, barriers = shared_address(memory);
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x % 32 == 0) {
            for (uint i = 0; i < SLOTS; i++) {
                // Weights arrive, and rows.
                asm volatile("mbarrier.init.shared::cta.b64 [%0], 2;" ::"r"(barriers + 8 * i));
            }
            asm volatile("fence.mbarrier_init.release.cluster;");
        }
        __syncwarp();
#endif
    }

    MEMBER void expect(uint slot, uint bytes) const {
#if __CUDA_ARCH__ >= 900
        if (threadIdx.x % 32 == 0) {
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barriers + 8 * slot), "r"(bytes)
                         : "memory");
        }
        __syncwarp();
#endif
    }

    MEMBER uint tiles_of(uint piece) const {
        return piece * CHUNK < n_tiles ? min(uint(CHUNK), n_tiles - piece * CHUNK) : 0;
    }

    // Asks for the weights of a piece, whose slot nobody reads any more.
    MEMBER void ask_weights(uint piece) const {
        const uint slot = piece % SLOTS, tiles = tiles_of(piece), lane = threadIdx.x % 32;
        if (tiles == 0) return;
        expect(slot, n_bands * tiles * Tile::BYTES);
        if (lane < n_bands) {
            copy_to_shared(slots + slot * SLOT_BYTES + lane * CHUNK * Tile::BYTES,
                           weights + lane * band_stride + piece * CHUNK * Tile::BYTES, tiles * Tile::BYTES,
                           barriers + 8 * slot);
        }
    }

    // Asks for its rows, once they are there.
    MEMBER void ask_rows(uint piece) const {
        const uint slot = piece % SLOTS, tiles = tiles_of(piece);
        if (tiles > 0) {
            expect(slot, n_row_tiles * tiles * Rows::COPIED_BYTES);
            Rows::template copy<CHUNK>(slots + slot * SLOT_BYTES + WEIGHT_BYTES,
                                       rows + piece * CHUNK * Rows::BYTES, tiles, row_stride, n_row_tiles,
                                       barriers + 8 * slot);
        }
#if __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 900
        // Without a piece too: how many groups are still to come tells which one is there.
        asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    }

    // Waits for a piece, which lies in the slot that is returned; they are waited for in order.
    MEMBER const uchar *wait(uint piece) const {
        const uint slot = piece % SLOTS;
#if __CUDA_ARCH__ >= 900
        asm volatile("{\n.reg .pred done;\nagain:\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(
                         barriers + 8 * slot),
                     "r"(piece / SLOTS % 2)
                     : "memory");
#elif __CUDA_ARCH__ >= 800
        asm volatile("cp.async.wait_group %0;" ::"n"(SLOTS - 1) : "memory");
        __syncwarp();
#endif
        return slots + slot * SLOT_BYTES;
    }
};

#endif
