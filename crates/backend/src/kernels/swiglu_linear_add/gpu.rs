//! `swiglu_linear_add` on GPUs: the activation to scratch, then `linear_add`; one launch for
//! generated rows on Metal.

use super::{Activation, SwigluLinearAdd};
use crate::Result;
use crate::gpu::args::SwigluArgs;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::linear::Linear;
use crate::gpu::lower::{Grid, Lowering};
use crate::gpu::simd;
use crate::gpu::source::SWIGLU_LINEAR_ADD;
use crate::kernels::linear_add;

const THREADS: u32 = 256;

impl SwigluLinearAdd {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let desc = lowering.desc(self.gate);
        let (gate, up) = (lowering.buffer(self.gate), lowering.buffer(self.up));
        let residual = lowering.buffer(self.residual);
        let down = Linear::new(self.weight, self.bias, desc.rows);
        if simd::can(lowering) {
            let (post_norm, scale) = (self.post_norm, self.scale);
            let gated = simd::Gated { gate, up, activation: self.activation };
            return linear_add::launch_tiles(
                lowering,
                down,
                post_norm,
                scale,
                0,
                residual,
                &|lowering, maps, skip| simd::launch_gated(lowering, &gated, maps, skip),
            );
        }
        let (scratch, skip) = lowering.scratch(0, desc.rows, desc.cols)?;
        let args = SwigluArgs {
            n_rows_at: Layout::n_rows_at(desc.rows),
            cols: lowering.u32(desc.cols)?,
            gelu_tanh: (self.activation == Activation::GeluTanh).into(),
        };
        let x = args.cols.div_ceil(THREADS);
        let grid = Grid { x, rows: RowsOf::All(desc.rows), rows_each: 1, threads: THREADS };
        lowering.launch(&SWIGLU_LINEAR_ADD, "swiglu", grid, args, &[gate, up, scratch]);
        linear_add::launch(lowering, down, self.post_norm, self.scale, (scratch, skip), residual)
    }
}
