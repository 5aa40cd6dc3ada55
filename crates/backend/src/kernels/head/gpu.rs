//! `head` on GPUs: the wanted rows' norm to scratch, then the projection.

use super::Head;
use crate::gpu::linear::Linear;
use crate::gpu::lower::Lowering;
use crate::gpu::source::HEAD;
use crate::kernels::rms_norm::From;
use crate::{Result, Rows};

impl Head {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let cols = lowering.desc(self.x).cols;
        let (x, out) = (lowering.buffer(self.x), lowering.buffer(self.out));
        let (scratch, _) = lowering.scratch(0, Rows::Outputs, cols)?;
        self.norm.launch(lowering, (Rows::Outputs, cols), From::Outputs, x, scratch)?;
        let linear = Linear::new(self.weight, None, Rows::Outputs);
        Linear { scale: self.scale, softcap: self.softcap, ..linear }.launch(lowering, &HEAD, scratch, out)
    }
}
