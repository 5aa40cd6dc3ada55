//! `linear_add` on GPUs: one launch, or two where a norm follows the map.

use super::LinearAdd;
use crate::Result;
use crate::gpu::linear::Linear;
use crate::gpu::lower::{Argument, Lowering};
use crate::gpu::source::{LINEAR_ADD, NORM_LINEAR};
use crate::kernels::rms_norm::Norm;

impl LinearAdd {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let (x, residual) = (lowering.buffer(self.x), lowering.buffer(self.residual));
        let linear = Linear::new(self.weight, self.bias, lowering.desc(self.x).rows);
        launch(lowering, linear, self.post_norm, self.scale, (x, 0), residual)
    }
}

/// `residual += scale * post_norm(W · x + b)`, where `skip` bytes of scratch are in use.
pub(crate) fn launch(
    lowering: &mut Lowering<'_>,
    linear: Linear,
    post_norm: Option<Norm>,
    scale: f32,
    (x, skip): (Argument, usize),
    residual: Argument,
) -> Result<()> {
    let Some(norm) = post_norm else {
        return Linear { scale, ..linear }.launch(lowering, &LINEAR_ADD, x, residual);
    };
    let (rows, cols) = (linear.rows, lowering.weight(linear.weight).rows());
    let (scratch, _) = lowering.scratch(skip, rows, cols)?;
    linear.launch(lowering, &NORM_LINEAR, x, scratch)?;
    norm.launch_add(lowering, (rows, cols), scale, scratch, residual)
}
