//! `head` on GPUs: the wanted rows' norm to scratch, the projection, the likeliest tokens.

use super::Head;
use crate::gpu::choose;
use crate::gpu::linear::Linear;
use crate::gpu::lower::Lowering;
use crate::gpu::simd;
use crate::gpu::source::HEAD;
use crate::gpu::tiles::convert::Input;
use crate::gpu::tiles::linear::{self, Map, Maps};
use crate::kernels::rms_norm::From;
use crate::{Result, Rows};

impl Head {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let cols = lowering.desc(self.x).cols;
        let (x, out) = (lowering.buffer(self.x), lowering.buffer(self.out));
        let input = Input { x, cols, norm: Some(self.norm), gather: true };
        let maps = [Map { weight: self.weight, bias: None, out }];
        let (scale, softcap) = (self.scale, self.softcap);
        let maps = Maps { maps: &maps, rows: Rows::Outputs, scale, softcap, add: false };
        if simd::can(lowering) {
            simd::launch(lowering, &input, &maps, 0)?;
            return choose::launch(lowering, self.out);
        }
        if linear::can(lowering, [self.weight]) {
            maps.launch(lowering, &input, 0)?;
            return choose::launch(lowering, self.out);
        }
        let (scratch, _) = lowering.scratch(0, Rows::Outputs, cols)?;
        self.norm.launch(lowering, (Rows::Outputs, cols), From::Outputs, x, scratch)?;
        let linear = Linear::new(self.weight, None, Rows::Outputs);
        Linear { scale: self.scale, softcap: self.softcap, ..linear }
            .launch(lowering, &HEAD, scratch, out)?;
        choose::launch(lowering, self.out)
    }
}
