//! `norm_linear` on GPUs: the norm to scratch, then a launch for each projection.

use super::NormLinear;
use crate::Result;
use crate::gpu::linear::Linear;
use crate::gpu::lower::Lowering;
use crate::gpu::source::NORM_LINEAR;
use crate::kernels::rms_norm::From;

impl NormLinear {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let desc = lowering.desc(self.x);
        let mut x = lowering.buffer(self.x);
        if let Some(norm) = &self.norm {
            let (scratch, _) = lowering.scratch(0, desc.rows, desc.cols)?;
            norm.launch(lowering, (desc.rows, desc.cols), From::SameRow, x, scratch)?;
            x = scratch;
        }
        for projection in &self.projections {
            let out = lowering.buffer(projection.out);
            let linear = Linear::new(projection.weight, projection.bias, desc.rows);
            linear.launch(lowering, &NORM_LINEAR, x, out)?;
        }
        Ok(())
    }
}
