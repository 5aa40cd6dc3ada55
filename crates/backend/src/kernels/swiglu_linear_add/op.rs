//! `residual += scale * post_norm(W · (act(gate) ⊙ up) + b)` (Shazeer 2020).

use super::super::rms_norm::Norm;
use crate::{BufferId, WeightId};

/// The gate's nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// The tanh approximation of GELU, as Gemma uses it.
    GeluTanh,
}

/// The second half of a gated feed-forward layer.
#[derive(Debug, Clone)]
pub struct SwigluLinearAdd {
    /// `[rows, n_ff]`
    pub gate: BufferId,
    /// `[rows, n_ff]`
    pub up: BufferId,
    /// Applied to the gate.
    pub activation: Activation,
    /// `[n_embd, n_ff]`
    pub weight: WeightId,
    /// `[n_embd]`
    pub bias: Option<WeightId>,
    /// Applied to the map's result before it is added (Gemma).
    pub post_norm: Option<Norm>,
    /// Multiplies what is added (Granite); 1 for most.
    pub scale: f32,
    /// `[rows, n_embd]`, updated.
    pub residual: BufferId,
}
