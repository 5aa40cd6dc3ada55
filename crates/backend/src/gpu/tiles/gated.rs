//! Gate, up and activation in one launch for each role, where nobody else reads gate and up.

use super::convert::{Converted, Form, Input};
use super::kernel::{Kernel, Kind, MapShape};
use super::linear::{self, Maps};
use super::packing::{Packing, TILE_COLS};
use super::prompts;
use crate::check::Access;
use crate::gpu::args::{GatedArgs, TileShape};
use crate::gpu::inputs::RowsOf;
use crate::gpu::linear::Linear;
use crate::gpu::lower::{Argument, Lowering};
use crate::gpu::source::{GENERATED_GATED, PROMPT_GATED, ROUNDED_GATED};
use crate::kernels::linear_add;
use crate::kernels::norm_linear::NormLinear;
use crate::kernels::swiglu_linear_add::{Activation, SwigluLinearAdd};
use crate::{BufferId, Op, Result, WeightId};

/// Bands of 16 outputs that a block does at once, of more than eight generated rows.
const BANDS: u32 = 2;

/// Two ops that become such a launch and the map that follows.
pub(crate) struct Gated<'a> {
    input: Input,
    gate: WeightId,
    up: WeightId,
    shape: MapShape,
    /// The kernel for rows that are no prompts.
    kernel: Kernel,
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
            && linear::can(lowering, [gate.weight, up.weight, op.weight])
            && Packing::of(lowering.weight(up.weight).format()) == Some(packing)
            && !reads_first(later, op.gate)
            && !reads_first(later, op.up);
        if !fits {
            return None;
        }
        let n_tiles = u32::try_from(lowering.desc(maps.x).cols.div_ceil(TILE_COLS)).ok()?;
        let shape = MapShape { packing, n_tiles, maps: 2, bands: BANDS };
        let rows = RowsOf::roles(lowering.desc(op.gate).rows)[0];
        let outs = u32::try_from(lowering.desc(op.gate).cols).ok()?;
        let kernel = Kernel::generated(lowering, rows, shape, &[outs])?;
        // One row after the other would read the weights for each.
        if kernel.rows_each == 1 && rows.most(lowering.bucket) > 1 {
            return None;
        }
        // Warpgroups leave what warpgroups take.
        if kernel.kind == Kind::Rounded && down_takes(lowering, op, rows).ok()?.0 != Form::Prompt {
            return None;
        }
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
        let op = self.op;
        let rows = lowering.desc(op.gate).rows;
        let down = Linear::new(op.weight, op.bias, rows);
        let residual = lowering.buffer(op.residual);
        linear_add::launch_tiles(
            lowering,
            down,
            op.post_norm,
            op.scale,
            0,
            residual,
            &|lowering, down, skip| {
                RowsOf::roles(rows).iter().try_for_each(|&rows| self.launch_rows(lowering, down, rows, skip))
            },
        )
    }

    /// The launches for some of the rows, with the map that follows.
    fn launch_rows(
        &self,
        lowering: &mut Lowering<'_>,
        down: &Maps<'_>,
        rows: RowsOf,
        skip: usize,
    ) -> Result<()> {
        let cols = lowering.desc(self.op.gate).cols;
        let packing = self.shape.packing;
        let kernel = match rows {
            RowsOf::Prompts => {
                Kernel::prompts(lowering, packing, prompts::GATED_BANDS, &[lowering.u32(cols)?])
            }
            _ => self.kernel,
        };
        let (mut buffers, end) = if kernel.converts() {
            (self.input.plain().to_vec(), skip)
        } else {
            let (x, end) = self.input.convert(lowering, rows, kernel.form(lowering, packing), skip)?;
            (vec![x], end)
        };
        let form = self.results(lowering, rows, kernel)?;
        let most = rows.most(lowering.bucket);
        let bytes = match form {
            Some(form) => form.bytes(most, cols.div_ceil(TILE_COLS)),
            None => most.checked_mul(cols).and_then(|n| n.checked_mul(4)),
        };
        let (out, end) = lowering.scratch_bytes(end, bytes)?;
        buffers.extend([Argument::Tiles(self.gate), Argument::Tiles(self.up), out]);
        if kernel.kind == Kind::Rounded {
            let n_blocks = kernel.blocks(lowering.u32(cols)?);
            buffers.extend(kernel.exchange(lowering, rows, n_blocks, end)?.0);
        }
        self.multiply(lowering, rows, (kernel, form), &buffers)?;
        let next = Input { x: out, cols, norm: None, gather: false };
        let is_single = kernel.converts() && form != Some(Form::Prompt);
        down.launch_rows(lowering, &next, rows, end, form.map(|form| Converted { form, is_single, x: out }))
    }

    /// The form in which the kernel leaves what the next map takes; `None` for floats.
    fn results(&self, lowering: &Lowering<'_>, rows: RowsOf, kernel: Kernel) -> Result<Option<Form>> {
        if kernel.kind != Kind::Generated {
            return Ok(Some(Form::Prompt));
        }
        let cols = lowering.desc(self.op.gate).cols;
        let (form, rows_each) = down_takes(lowering, self.op, rows)?;
        let n_bands = kernel.blocks(lowering.u32(cols)?);
        let groups = kernel.groups(&lowering.device, n_bands);
        // One row lies in memory otherwise than several.
        let is_alike = (rows_each == 1) == (kernel.rows_each == 1);
        let fits = match form {
            // Pairs of bands must not leave some threadgroups with over a fifth more to do than single ones
            // would, or with more than one pair.
            Form::Quantised => {
                let (bands, paired) = (n_bands.div_ceil(groups), 2 * n_bands.div_ceil(2).div_ceil(groups));
                is_alike && (paired <= 2 || 5 * paired <= 6 * bands)
            }
            Form::Rounded => is_alike,
            Form::Prompt => true,
            Form::Split => false,
        };
        Ok((fits && kernel.rows_each <= 8 && cols.is_multiple_of(TILE_COLS)).then_some(form))
    }

    fn multiply(
        &self,
        lowering: &mut Lowering<'_>,
        rows: RowsOf,
        (kernel, form): (Kernel, Option<Form>),
        buffers: &[Argument],
    ) -> Result<()> {
        let args = GatedArgs {
            shape: TileShape { groups: kernel.part_groups, ..self.input.shape(lowering, rows)? },
            cols: lowering.u32(lowering.desc(self.op.gate).cols)?,
            gelu_tanh: (self.op.activation == Activation::GeluTanh).into(),
            results: Form::as_results(form),
        };
        let source = match kernel.kind {
            Kind::Generated => &GENERATED_GATED,
            Kind::Rounded => &ROUNDED_GATED,
            Kind::Prompt => &PROMPT_GATED,
        };
        let suffix = format!("_{}", kernel.rows_each);
        let of_kernel = (source, self.shape.packing, &*suffix);
        let launch = kernel.launch(lowering, of_kernel, (rows, kernel.blocks(args.cols)), args, buffers);
        launch.definitions += &kernel.row_definition(self.input.cols);
        launch.definitions += &gated_definitions(&args);
        Ok(())
    }
}

/// What kernels are compiled with for them.
pub(super) fn gated_definitions(args: &GatedArgs) -> String {
    let GatedArgs { results, gelu_tanh, .. } = args;
    format!("#define GATED_RESULTS {results}\n#define GATED_GELU {gelu_tanh}\n")
}

/// How the map behind the activation takes rows, and how many at once.
fn down_takes(lowering: &Lowering<'_>, op: &SwigluLinearAdd, rows: RowsOf) -> Result<(Form, u32)> {
    let cols = lowering.desc(op.gate).cols;
    let input = Input { x: Argument::Inputs, cols, norm: None, gather: false };
    linear::takes(lowering, op.weight, &input, rows)
}

/// Whether some op reads what is in a buffer now.
pub(super) fn reads_first(ops: &[Op], buffer: BufferId) -> bool {
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
