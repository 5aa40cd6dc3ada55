//! `out[i] = cap(scale * W · norm(x[outputs[i]]))`.

use super::super::rms_norm::Norm;
use crate::{BufferId, WeightId};

/// Final norm and vocabulary projection, only for [`crate::StepInputs::outputs`].
#[derive(Debug, Clone)]
pub struct Head {
    /// `[tokens, n_embd]`
    pub x: BufferId,
    /// The final norm.
    pub norm: Norm,
    /// `[n_vocab, n_embd]`
    pub weight: WeightId,
    /// Multiplies the logits (Granite: 1 / its divisor); 1 for most.
    pub scale: f32,
    /// `cap * tanh(logit / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// `[outputs, n_vocab]`
    pub out: BufferId,
}
