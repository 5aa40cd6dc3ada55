//! `residual += scale * Σ_e p_e · down_e · (act(gate_e · h) ⊙ (up_e · h))`, `h = norm(x)`,
//! over the `n_used` experts with the largest router probabilities (Fedus et al. 2021; Mixtral).

use super::super::{rms_norm::Norm, swiglu_linear_add::Activation};
use crate::{BufferId, WeightId};

/// Routing and the chosen experts' feed-forward layers.
#[derive(Debug, Clone)]
pub struct MoeAdd {
    /// `[rows, n_embd]`
    pub x: BufferId,
    /// Before router and experts.
    pub norm: Norm,
    /// `[n_experts, n_embd]`
    pub router: WeightId,
    /// `[n_experts * n_ff, n_embd]`
    pub gate: WeightId,
    /// `[n_experts * n_ff, n_embd]`
    pub up: WeightId,
    /// `[n_experts * n_embd, n_ff]`
    pub down: WeightId,
    /// Experts in all.
    pub n_experts: usize,
    /// Experts a token uses; ties go to the lower index.
    pub n_used: usize,
    /// Whether the chosen probabilities (softmax over all experts) are scaled to add up to 1.
    pub renormalise: bool,
    /// Applied to the gate.
    pub activation: Activation,
    /// Multiplies what is added.
    pub scale: f32,
    /// `[rows, n_embd]`, updated; may be the same buffer as `x`.
    pub residual: BufferId,
}
