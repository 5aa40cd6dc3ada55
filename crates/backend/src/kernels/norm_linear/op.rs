//! `out_i = W_i · norm(x) + b_i` for each projection: QKV, or gate and up.

use super::super::rms_norm::Norm;
use crate::{BufferId, WeightId};

/// One linear map and where it goes.
#[derive(Debug, Clone)]
pub struct Projection {
    /// `[out_cols, in_cols]`, any format.
    pub weight: WeightId,
    /// `[out_cols]`, F32.
    pub bias: Option<WeightId>,
    /// `[rows, out_cols]`
    pub out: BufferId,
}

/// RMSNorm once, then every projection of the result.
#[derive(Debug, Clone)]
pub struct NormLinear {
    /// `[rows, in_cols]`
    pub x: BufferId,
    /// Absent: the projections read `x` itself.
    pub norm: Option<Norm>,
    /// At least one.
    pub projections: Vec<Projection>,
}
