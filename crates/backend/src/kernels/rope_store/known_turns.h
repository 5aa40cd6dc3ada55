// Turns of a row in shared memory, which its heads read. CUDA only.
#ifndef QUARREL_KNOWN_TURNS_H
#define QUARREL_KNOWN_TURNS_H

#include "cuda.h"
#include "rope_store.h"

// Rotated pairs of a head, at most.
#define MAX_PAIRS 128

// With what the host knows of the model, which need not be found out, nor what it rules out be code.
FN RopeStoreArgs known_rope(RopeStoreArgs args) {
#ifdef ROPE_NORM
    args.has_norm = ROPE_NORM, args.adjacent = ROPE_ADJACENT, args.n_pairs = ROPE_PAIRS;
    args.k_dim = ROPE_K_DIM, args.v_dim = ROPE_V_DIM, args.k_format = ROPE_K_FORMAT, args.v_format = ROPE_V_FORMAT;
#endif
    return args;
}

struct KnownTurns {
    const Turn *turns;
    MEMBER Turn at(uint pair) const { return turns[pair]; }
};

// Computes a row's turns, by all threads that compute.
FN void know_turns(Turn *known, const Turns &turns, uint n_pairs) {
    for (uint pair = threadIdx.x; pair < n_pairs; pair += n_threads()) known[pair] = turns.at(pair);
}

#endif
