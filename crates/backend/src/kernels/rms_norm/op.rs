//! `out = x / sqrt(mean(x²) + eps) * weight`, row by row (Zhang & Sennrich 2019).

use crate::{BufferId, WeightId};

/// The parameters of a normalisation, wherever one is fused.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// `[cols]`, F32 (one row).
    pub weight: WeightId,
    /// Added to the mean square.
    pub eps: f32,
}

/// RMSNorm on its own, for hidden states that leave the model.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// `[rows, cols]`
    pub x: BufferId,
    /// Weight and epsilon.
    pub norm: Norm,
    /// `[rows, cols]`
    pub out: BufferId,
}
