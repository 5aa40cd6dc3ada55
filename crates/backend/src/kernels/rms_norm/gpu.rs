//! `rms_norm` on GPUs: one threadgroup a row.

use super::{Norm, RmsNorm};
use crate::gpu::args::NormArgs;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::RMS_NORM;
use crate::{Result, Rows};

/// One row is all the work there is in decoding, so many threads share it.
const THREADS: u32 = 1024;

/// Where the rows to normalise come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Row `i` from row `i`.
    SameRow,
    /// Row `i` from the row that output `i` names.
    Outputs,
}

impl RmsNorm {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let x = lowering.desc(self.x);
        let (from, to) = (lowering.buffer(self.x), lowering.buffer(self.out));
        self.norm.launch(lowering, (x.rows, x.cols), From::SameRow, from, to)
    }
}

impl Norm {
    /// `out = norm(x)`, rows of `cols` elements.
    pub(crate) fn launch(
        &self,
        lowering: &mut Lowering<'_>,
        (rows, cols): (Rows, usize),
        from: From,
        x: Argument,
        out: Argument,
    ) -> Result<()> {
        let gather_at = if from == From::Outputs { lowering.layout.outputs } else { 0 };
        let args = NormArgs {
            n_rows_at: Layout::n_rows_at(rows),
            cols: lowering.u32(cols)?,
            gather_at,
            eps: self.eps,
            scale: 1.0,
        };
        lowering.launch(&RMS_NORM, "rms_norm", grid(rows), args, &[x, Argument::Weight(self.weight), out]);
        Ok(())
    }

    /// `residual += scale * norm(x)`, rows of `cols` elements.
    pub(crate) fn launch_add(
        &self,
        lowering: &mut Lowering<'_>,
        (rows, cols): (Rows, usize),
        scale: f32,
        x: Argument,
        residual: Argument,
    ) -> Result<()> {
        let args = NormArgs {
            n_rows_at: Layout::n_rows_at(rows),
            cols: lowering.u32(cols)?,
            gather_at: 0,
            eps: self.eps,
            scale,
        };
        let buffers = [x, Argument::Weight(self.weight), residual];
        lowering.launch(&RMS_NORM, "norm_add", grid(rows), args, &buffers);
        Ok(())
    }
}

fn grid(rows: Rows) -> Grid {
    Grid { x: 1, rows: RowsOf::All(rows), rows_each: 1, threads: THREADS }
}
