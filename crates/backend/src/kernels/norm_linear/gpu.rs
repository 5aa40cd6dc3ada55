//! `norm_linear` on GPUs: the norm to scratch, then a launch for each projection, or
//! for all of them where weights are in tiles, and for norm and projections on Metal.

use super::{NormLinear, Projection};
use crate::Result;
use crate::gpu::linear::Linear;
use crate::gpu::lower::Lowering;
use crate::gpu::simd;
use crate::gpu::source::NORM_LINEAR;
use crate::gpu::tiles::convert::Input;
use crate::gpu::tiles::linear::{self, Map, Maps};
use crate::kernels::rms_norm::From;

impl NormLinear {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let desc = lowering.desc(self.x);
        let mut x = lowering.buffer(self.x);
        let input = Input { x, cols: desc.cols, norm: self.norm, gather: false };
        let map = |p: &Projection| Map { weight: p.weight, bias: p.bias, out: lowering.buffer(p.out) };
        let maps: Vec<Map> = self.projections.iter().map(map).collect();
        let maps = Maps { maps: &maps, rows: desc.rows, scale: 1.0, softcap: None, add: false };
        if simd::can(lowering) {
            return simd::launch(lowering, &input, &maps, 0);
        }
        if linear::can(lowering, self.projections.iter().map(|projection| projection.weight)) {
            return maps.launch(lowering, &input, 0);
        }
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
