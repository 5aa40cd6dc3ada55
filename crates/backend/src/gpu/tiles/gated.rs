//! Gate, up and activation in one launch, where nobody else reads gate and up.

use super::convert::{Form, Input};
use super::linear;
use super::packing::{Packing, TILE_COLS, TILE_ROWS};
use crate::check::Access;
use crate::gpu::args::GatedArgs;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::linear::Linear;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::GENERATED_GATED;
use crate::kernels::linear_add;
use crate::kernels::norm_linear::NormLinear;
use crate::kernels::swiglu_linear_add::{Activation, SwigluLinearAdd};
use crate::{BufferId, Op, Result, WeightId};

/// Threads of `generated_gated`: eight SIMD-groups for each of the two weights.
const THREADS: u32 = 512;
/// Bands of 16 outputs that a block does of more than eight rows; of fewer it does one.
const BANDS: u32 = 2;

/// Two ops that become one launch and the map that follows.
pub(crate) struct Gated<'a> {
    input: Input,
    gate: WeightId,
    up: WeightId,
    packing: Packing,
    op: &'a SwigluLinearAdd,
}

impl<'a> Gated<'a> {
    /// The two ops, if they are such a pair; `later` are the ops behind them.
    pub fn find(
        lowering: &Lowering<'_>,
        maps: &NormLinear,
        op: &'a SwigluLinearAdd,
        later: &[Op],
    ) -> Option<Self> {
        let [gate, up] = &maps.projections[..] else { return None };
        let packing = Packing::of(lowering.weight(gate.weight).format())?;
        let fits = gate.out == op.gate
            && up.out == op.up
            && gate.bias.is_none()
            && up.bias.is_none()
            && linear::can(lowering, [gate.weight, up.weight])
            && Packing::of(lowering.weight(up.weight).format()) == Some(packing)
            && !reads_first(later, op.gate)
            && !reads_first(later, op.up);
        let input = Input {
            x: lowering.buffer(maps.x),
            cols: lowering.desc(maps.x).cols,
            norm: maps.norm,
            gather: false,
        };
        fits.then_some(Self { input, gate: gate.weight, up: up.weight, packing, op })
    }

    /// Adds the launches.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let desc = lowering.desc(self.op.gate);
        let rows = RowsOf::All(desc.rows);
        let (x, end) = self.input.convert(lowering, rows, Form::of(self.packing), 0)?;
        let (out, end) = lowering.scratch(end, desc.rows, desc.cols)?;
        let (first_at, end_at) = Layout::span(rows);
        let args = GatedArgs {
            first_at,
            end_at,
            n_tiles: lowering.u32(self.input.cols.div_ceil(TILE_COLS))?,
            cols: lowering.u32(desc.cols)?,
            gelu_tanh: (self.op.activation == Activation::GeluTanh).into(),
        };
        let rows_each = linear::rows_each(rows.most(lowering.bucket));
        let bands = if rows_each <= 8 { 1 } else { BANDS };
        let grid =
            Grid { x: args.cols.div_ceil(TILE_ROWS as u32 * bands), rows, rows_each, threads: THREADS };
        let buffers = [x, Argument::Tiles(self.gate), Argument::Tiles(self.up), out];
        let suffix = format!("_{rows_each}");
        let launch =
            lowering.launch_for(&GENERATED_GATED, (self.packing.name(), &suffix), grid, args, &buffers);
        launch.early = true;
        launch.shared = linear::shared_bytes(self.packing, (rows_each, bands), THREADS);
        let down = Linear::new(self.op.weight, self.op.bias, desc.rows);
        let residual = lowering.buffer(self.op.residual);
        linear_add::launch(lowering, down, self.op.post_norm, self.op.scale, (out, end), residual)
    }
}

/// Whether some op reads what is in a buffer now.
fn reads_first(ops: &[Op], buffer: BufferId) -> bool {
    let mut first = None;
    for op in ops {
        op.accesses(&mut |id, access| {
            if id == buffer {
                first = first.or(Some(access));
            }
        });
    }
    first.is_some_and(|access| access != Access::Write)
}
