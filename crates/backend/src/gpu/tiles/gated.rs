//! Gate, up and activation in one launch, where nobody else reads gate and up.

use super::convert::{Form, Input};
use super::generated::{Generated, MapShape};
use super::linear;
use super::packing::{Packing, TILE_COLS, TILE_ROWS};
use crate::check::Access;
use crate::gpu::args::GatedArgs;
use crate::gpu::inputs::RowsOf;
use crate::gpu::linear::Linear;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::GENERATED_GATED;
use crate::kernels::linear_add;
use crate::kernels::norm_linear::NormLinear;
use crate::kernels::swiglu_linear_add::{Activation, SwigluLinearAdd};
use crate::{BufferId, Op, Result, WeightId};

/// Bands of 16 outputs that a block does at once, of more than eight rows.
const BANDS: u32 = 2;

/// Two ops that become one launch and the map that follows.
pub(crate) struct Gated<'a> {
    input: Input,
    gate: WeightId,
    up: WeightId,
    shape: MapShape,
    kernel: Generated,
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
        if !fits {
            return None;
        }
        let n_tiles = u32::try_from(lowering.desc(maps.x).cols.div_ceil(TILE_COLS)).ok()?;
        let shape = MapShape { packing, n_tiles, maps: 2, bands: BANDS };
        let rows = RowsOf::All(lowering.desc(op.gate).rows);
        let kernel = Generated::choose(lowering, rows, shape)?;
        let input = Input {
            x: lowering.buffer(maps.x),
            cols: lowering.desc(maps.x).cols,
            norm: maps.norm,
            gather: false,
        };
        Some(Self { input, gate: gate.weight, up: up.weight, shape, kernel, op })
    }

    /// Adds the launches.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let desc = lowering.desc(self.op.gate);
        let rows = RowsOf::All(desc.rows);
        let (mut buffers, end) = if self.kernel.converts() {
            (self.input.plain().to_vec(), 0)
        } else {
            let (x, end) = self.input.convert(lowering, rows, Form::of(self.shape.packing), 0)?;
            (vec![x], end)
        };
        let (out, end) = lowering.scratch(end, desc.rows, desc.cols)?;
        buffers.extend([Argument::Tiles(self.gate), Argument::Tiles(self.up), out]);
        let args = GatedArgs {
            shape: self.input.shape(lowering, rows)?,
            cols: lowering.u32(desc.cols)?,
            gelu_tanh: (self.op.activation == Activation::GeluTanh).into(),
        };
        let Generated { rows_each, bands, threads, shared } = self.kernel;
        let n_blocks = args.cols.div_ceil(TILE_ROWS as u32 * bands);
        let grid = Grid { x: self.kernel.groups(&lowering.device, n_blocks), rows, rows_each, threads };
        let name = (self.shape.packing.name(), &*format!("_{rows_each}"));
        let launch = lowering.launch_for(&GENERATED_GATED, name, grid, args, &buffers);
        launch.early = true;
        launch.shared = shared;
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
