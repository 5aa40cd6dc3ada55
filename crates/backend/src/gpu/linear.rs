//! Linear maps as three ops launch them.

use super::args::LinearArgs;
use super::inputs::{Layout, RowsOf};
use super::lower::{Argument, Grid, Lowering};
use super::source::Source;
use crate::{Result, Rows, WeightId};

const THREADS: u32 = 128;

/// Rows and outputs that a SIMD-group makes at once, as `linear_kernels.h` has them.
const ONE_ROW: (u32, u32) = (1, 2);
const MANY_ROWS: (u32, u32) = (8, 4);

/// A linear map and what is done with its result.
pub(crate) struct Linear {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub rows: Rows,
    pub scale: f32,
    pub softcap: Option<f32>,
}

impl Linear {
    /// Plain `W · x + b`.
    pub fn new(weight: WeightId, bias: Option<WeightId>, rows: Rows) -> Self {
        Self { weight, bias, rows, scale: 1.0, softcap: None }
    }

    /// Launches the instance of `source` for the weight's format.
    pub fn launch(
        &self,
        lowering: &mut Lowering<'_>,
        source: &'static Source,
        x: Argument,
        out: Argument,
    ) -> Result<()> {
        let weight = lowering.weight(self.weight);
        let format = lowering.format_name(source.name, weight.format())?;
        let (rows_each, outs) = if lowering.rows(self.rows) == 1 { ONE_ROW } else { MANY_ROWS };
        let args = LinearArgs {
            n_rows_at: Layout::n_rows_at(self.rows),
            cols: lowering.u32(weight.cols())?,
            out_cols: lowering.u32(weight.rows())?,
            has_bias: self.bias.is_some().into(),
            scale: self.scale,
            softcap: self.softcap.unwrap_or(0.0),
        };
        let x_groups = args.out_cols.div_ceil(outs * THREADS / 32);
        let grid = Grid { x: x_groups, rows: RowsOf::All(self.rows), rows_each, threads: THREADS };
        let bias = Argument::Weight(self.bias.unwrap_or(self.weight));
        let suffix = format!("_{rows_each}");
        lowering.launch_for(
            source,
            (format, &suffix),
            grid,
            args,
            &[Argument::Weight(self.weight), bias, x, out],
        );
        Ok(())
    }
}
