// The activations of gated feed-forward layers.
#ifndef QUARREL_ACTIVATE_H
#define QUARREL_ACTIVATE_H

#include "dialect.h"

// SiLU, or the tanh form of GELU.
FN float activate(float x, uint gelu_tanh) {
    if (!gelu_tanh) return x / (1.0f + exact_exp(-x));
    // sqrt(2 / pi)
    const float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + exact_tanh(inner));
}

#endif
