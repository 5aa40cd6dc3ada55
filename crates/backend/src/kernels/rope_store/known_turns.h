// Turns of a row in shared memory, which its heads read. CUDA only.
#ifndef QUARREL_KNOWN_TURNS_H
#define QUARREL_KNOWN_TURNS_H

#include "cuda.h"
#include "rope_store.h"

// Rotated pairs of a head, at most.
#define MAX_PAIRS 128

struct KnownTurns {
    const Turn *turns;
    MEMBER Turn at(uint pair) const { return turns[pair]; }
};

// Computes a row's turns, by all threads that compute.
FN void know_turns(Turn *known, const Turns &turns, uint n_pairs) {
    for (uint pair = threadIdx.x; pair < n_pairs; pair += n_threads()) known[pair] = turns.at(pair);
}

#endif
