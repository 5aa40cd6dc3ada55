// How the rings of step.h are filled.
#ifndef QUARREL_STEP_FEED_H
#define QUARREL_STEP_FEED_H

#include "step_weights.h"

#if __CUDA_ARCH__ >= 900

// A SIMD-group's part of a band.
struct BandPart {
    uint stage, nth;
    Columns part;
    Band band;
    MEMBER BandPart() : stage(0), nth(0), part(0, 1), band() {}

    // Finds the band, or the first one after it, that has columns for this SIMD-group.
    MEMBER void find(const StepWeights &weights, uint simdgroup) {
        for (;;) {
            band = weights.at(stage, nth, simdgroup / PARTS);
            if (band.at) {
                part = Columns(weights.n_tiles(stage), band.together, simdgroup);
                if (part.n > 0) return;
                nth++;
            } else {
                if (++stage >= STAGES * STEP_LAYERS) return;
                nth = 0;
            }
        }
    }
};

// Fills a SIMD-group's ring with its part of them.
struct Feed {
    const StepWeights &weights;
    const StepRing ring;
    const uint simdgroup;
    BandPart now, next;
    bool has_next;
    uint tile, asked;
    const ulong policy;

    // A SIMD-group that is not there gets nothing.
    MEMBER Feed(const StepWeights &weights, uint simdgroup)
        : weights(weights), ring(simdgroup), simdgroup(simdgroup), has_next(false), tile(0), asked(0), policy(read_once()) {
        if (simdgroup < STEP_SIMDGROUPS) now.find(weights, simdgroup);
    }

    MEMBER bool has_more() const { return now.band.at; }
    // Finds what comes behind this band, which others of the SIMD-group wait for: best while there is no room for any piece.
    MEMBER void look_ahead() {
        if (has_next || !has_more()) return;
        next = now;
        next.nth++;
        next.find(weights, simdgroup);
        has_next = true;
    }

    // Pieces that are under way together, no more than there are slots. Blocks wait for letters while the first of gate and up
    // come, and all others; between them is most of what a layer has.
    MEMBER uint most() const { return now.stage % STAGES == GATED_STAGE && now.nth > 0 ? STEP_MOST_PIECES : STEP_PIECES; }

    // Asks for the next piece if there is room for it.
    MEMBER bool ask() {
        if (!has_more() || !ring.is_free(asked) || !ring.is_quiet(asked, most())) return false;
        const Band &band = now.band;
        const uint bytes = band.tile_bytes, tiles = min(band.chunk, now.part.n - tile);
        ring.copy(asked++, band.at + ulong(now.part.first + tile) * bytes, tiles * bytes, policy);
        tile += tiles;
        if (tile == now.part.n) {
            look_ahead();
            now = next, has_next = false, tile = 0;
        }
        return true;
    }
};

// Fills the rings that are the `nth` feeder's; one lane for each.
FN void feed(const StepWeights &weights, uint nth) {
    Feed feed(weights, min(nth + STEP_FEEDERS * (threadIdx.x % 32), uint(STEP_SIMDGROUPS)));
    while (__any_sync(0xffffffff, feed.has_more())) {
        if (__any_sync(0xffffffff, feed.ask())) continue;
        // The others shall not lose their turns to one that can do nothing.
        if (__any_sync(0xffffffff, feed.has_more() && !feed.has_next)) feed.look_ahead();
        else __nanosleep(20);
    }
}

#endif
#endif
