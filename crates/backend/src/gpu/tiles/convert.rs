//! Activations as the kernels over tiles take them.

use super::kernel::row_definition;
use super::packing::{Packing, TILE_COLS};
use crate::Result;
use crate::gpu::args::TileShape;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::lower::{Argument, Device, Grid, Lowering};
use crate::gpu::runtime::Activations;
use crate::gpu::source::{ACTIVATIONS, BF16_ACTIVATIONS};
use crate::kernels::rms_norm::Norm;

/// Columns that a thread converts at a time.
const COLS_EACH: usize = 4;
/// The most threads of a row that one threadgroup does, and of a threadgroup among many.
const MAX_THREADS: usize = 1024;
const MANY_THREADS: usize = 256;

/// What activations become; `activations.h` says how each lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// 8-bit integers in blocks of 32.
    Quantised,
    /// Three bfloat16 that add up to the float.
    Split,
    /// One bfloat16.
    Rounded,
    /// One bfloat16, as prompts' kernels take it.
    Prompt,
}

impl Form {
    /// What weights of a packing are multiplied with.
    pub fn of(device: &Device, packing: Packing, rows: RowsOf) -> Self {
        match (rows, device.activations, packing) {
            (RowsOf::Prompts, ..) => Self::Prompt,
            (_, Activations::Bf16, _) => Self::Rounded,
            (_, Activations::Int8, Packing::P16) => Self::Split,
            (_, Activations::Int8, _) => Self::Quantised,
        }
    }

    /// What sources of generated rows' kernels are compiled with for it.
    pub fn definitions(self) -> &'static str {
        match self {
            Self::Rounded => BF16_ACTIVATIONS,
            _ => "",
        }
    }

    /// The kernel that converts rows to it.
    pub(super) fn kernel(self) -> &'static str {
        match self {
            Self::Quantised => "quantise_rows",
            Self::Split => "split_rows",
            Self::Rounded => "round_generated_rows",
            Self::Prompt => "round_rows",
        }
    }

    /// How kernels that make the next map's rows are told the form; `None` is floats.
    pub(super) fn as_results(results: Option<Self>) -> u32 {
        match results {
            None | Some(Self::Split) => 0,
            Some(Self::Quantised) => 1,
            Some(Self::Rounded) => 2,
            Some(Self::Prompt) => 3,
        }
    }

    /// Bytes of so many rows.
    pub fn bytes(self, rows: usize, n_tiles: usize) -> Option<usize> {
        // Of 64 columns of eight rows.
        let tile = match self {
            Self::Quantised => 640,
            Self::Split => 3 * 1024,
            Self::Rounded | Self::Prompt => 1024,
        };
        rows.div_ceil(8).checked_mul(n_tiles)?.checked_mul(tile)
    }
}

/// Rows that have been converted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Converted {
    pub form: Form,
    /// Whether they lie one by one, as a kernel for a single row takes them.
    pub is_single: bool,
    pub x: Argument,
}

/// Rows to multiply, f32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    /// The rows.
    pub x: Argument,
    /// Elements a row.
    pub cols: usize,
    /// What they go through first.
    pub norm: Option<Norm>,
    /// Whether the rows are those that outputs name.
    pub gather: bool,
}

impl Input {
    /// What a kernel over tiles must know of them.
    pub fn shape(&self, lowering: &Lowering<'_>, rows: RowsOf) -> Result<TileShape> {
        let (first_at, end_at) = Layout::span(rows);
        Ok(TileShape {
            first_at,
            end_at,
            cols: lowering.u32(self.cols)?,
            n_tiles: lowering.u32(self.cols.div_ceil(TILE_COLS))?,
            x_rows: lowering.u32(rows.most(lowering.bucket))?,
            gather_at: if self.gather { lowering.layout.outputs } else { 0 },
            has_norm: self.norm.is_some().into(),
            eps: self.norm.map_or(0.0, |norm| norm.eps),
            groups: 1,
        })
    }

    /// The buffers of a kernel that converts its row itself.
    pub fn plain(&self) -> [Argument; 2] {
        [self.x, self.norm.map_or(Argument::Inputs, |norm| Argument::Weight(norm.weight))]
    }

    /// Converts rows to scratch behind `skip` bytes, unless who made them has left them so; where they are, and what is taken
    /// then.
    pub fn convert(
        &self,
        lowering: &mut Lowering<'_>,
        rows: RowsOf,
        form: Form,
        skip: usize,
    ) -> Result<(Argument, usize)> {
        if let Some(x) = lowering.left.filter(|left| left.is(lowering, self, rows, form)).map(|left| left.at)
        {
            return Ok((x, skip));
        }
        let n_tiles = self.cols.div_ceil(TILE_COLS);
        let (out, end) = lowering.scratch_bytes(skip, form.bytes(rows.most(lowering.bucket), n_tiles))?;
        let args = self.shape(lowering, rows)?;
        let grid = self.grid(lowering, rows)?;
        let launch = match self.norm {
            None => lowering.launch(&ACTIVATIONS, form.kernel(), grid, args, &[self.x, out]),
            Some(norm) => {
                let entry = format!("norm_{}", form.kernel());
                let buffers = [self.x, Argument::Weight(norm.weight), out];
                let launch = lowering.launch(&ACTIVATIONS, entry, grid, args, &buffers);
                launch.definitions = row_definition(self.cols, grid.threads);
                launch
            }
        };
        launch.early = true;
        Ok((out, end))
    }

    /// Normalises rows to `out`, as they are where the model has them.
    pub fn normalise(&self, lowering: &mut Lowering<'_>, rows: RowsOf, out: Argument) -> Result<()> {
        let args = self.shape(lowering, rows)?;
        let grid = self.grid(lowering, rows)?;
        let [x, norm] = self.plain();
        let launch = lowering.launch(&ACTIVATIONS, "norm_store_rows", grid, args, &[x, norm, out]);
        (launch.early, launch.definitions) = (true, row_definition(self.cols, grid.threads));
        Ok(())
    }

    /// Threadgroups that convert rows.
    fn grid(&self, lowering: &Lowering<'_>, rows: RowsOf) -> Result<Grid> {
        let wanted = (self.cols / COLS_EACH).next_multiple_of(32).max(32);
        // One row alone is done the sooner the more threads do it.
        let alone = self.norm.is_some() && rows != RowsOf::Prompts;
        let threads = wanted.min(if alone { MAX_THREADS } else { MANY_THREADS });
        let groups = if self.norm.is_some() { 1 } else { wanted.div_ceil(threads) };
        Ok(Grid { x: lowering.u32(groups)?, rows, rows_each: 1, threads: lowering.u32(threads)? })
    }
}
