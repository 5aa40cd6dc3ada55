//! `residual += scale * post_norm(W · x + b)`.

use super::super::rms_norm::Norm;
use crate::{BufferId, WeightId};

/// Attention's output projection, with what follows it.
#[derive(Debug, Clone)]
pub struct LinearAdd {
    /// `[rows, in_cols]`
    pub x: BufferId,
    /// `[out_cols, in_cols]`
    pub weight: WeightId,
    /// `[out_cols]`
    pub bias: Option<WeightId>,
    /// Applied to the map's result before it is added (Gemma).
    pub post_norm: Option<Norm>,
    /// Multiplies what is added (Granite); 1 for most.
    pub scale: f32,
    /// `[rows, out_cols]`, updated.
    pub residual: BufferId,
}
