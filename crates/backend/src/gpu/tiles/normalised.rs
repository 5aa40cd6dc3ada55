//! Rows that the map before a norm leaves as the maps behind it take them (`rounded_add_norm.cu`): nothing else converts them.

use std::ops::RangeInclusive;

use super::convert::{Form, Input};
use super::kernel::Kind;
use super::linear::{self, MapLaunch, Maps, packing};
use super::packing::{TILE_COLS, TILE_ROWS};
use crate::check::Access;
use crate::gpu::args::AddNormArgs;
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Lowering, Part};
use crate::gpu::runtime::Activations;
use crate::gpu::source::ROUNDED_ADD_NORM;
use crate::kernels::norm_linear::NormLinear;
use crate::kernels::rms_norm::Norm;
use crate::plan::ALIGNMENT;
use crate::{BufferId, Error, Op, Result, Rows, WeightId};

/// Rows of a step. With fewer, kernels of other kinds may take them; with more, a prompt mostly runs beside, whose processors
/// threadgroups that wait for each other would hold.
const ROWS: RangeInclusive<usize> = 9..=64;
/// Columns whose squares are added up together.
const SQUARED_COLS: u32 = 128;

/// Generated rows that are there, normalised, as kernels for many rows take them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Left {
    /// The op for whose maps they are.
    op: usize,
    /// What they were before the norm.
    x: Argument,
    norm: WeightId,
    pub at: Argument,
}

impl Left {
    /// Whether they are what the op that is being lowered would make of `input`.
    pub fn is(&self, lowering: &Lowering<'_>, input: &Input, rows: RowsOf, form: Form) -> bool {
        lowering.place().0 == self.op
            && rows == RowsOf::Generated
            && form == Form::Prompt
            && input.x == self.x
            && !input.gather
            && input.norm.is_some_and(|norm| norm.weight == self.norm)
    }
}

/// Bytes for the rows that any op of a step leaves.
pub(crate) fn bytes(lowering: &Lowering<'_>) -> Result<usize> {
    let device = &lowering.device;
    let may_leave = device.activations == Activations::Bf16 && device.has_warpgroups;
    if !may_leave || !ROWS.contains(&lowering.rows(Rows::Tokens)) {
        return Ok(0);
    }
    let (_, ops) = lowering.place();
    let cols = ops.iter().filter_map(|op| match op {
        Op::NormLinear(maps) if maps.norm.is_some() => Some(lowering.desc(maps.x).cols),
        _ => None,
    });
    let n_tiles = cols.max().unwrap_or(0).div_ceil(TILE_COLS);
    let bytes = Form::Prompt.bytes(lowering.rows(Rows::Tokens), n_tiles);
    let bytes = bytes.and_then(|n| n.checked_next_multiple_of(ALIGNMENT));
    bytes.ok_or_else(|| Error::Step("an op's rows take more than can be addressed".into()))
}

/// A norm behind a map that adds to the rows it is of, and the op that has it.
pub(super) struct NextNorm {
    op: usize,
    norm: Norm,
}

impl NextNorm {
    /// The norm behind a launch, if there is a kernel for both.
    pub fn find(lowering: &Lowering<'_>, all: &Maps<'_>, launch: &MapLaunch<'_>) -> Option<Self> {
        let MapLaunch { maps, rows, kernel, .. } = launch;
        let [map] = maps else { return None };
        let outs = u32::try_from(lowering.weight(map.weight).rows()).ok()?;
        let can = all.add
            && *rows == RowsOf::Generated
            && ROWS.contains(&rows.most(lowering.bucket))
            && kernel.kind == Kind::Rounded
            && kernel.part_groups > 1
            // The blocks of all columns wait for each other.
            && kernel.groups(&lowering.device, kernel.blocks(outs)) <= lowering.device.units;
        let Argument::Arena(Part { rows_of: Some(residual), .. }) = map.out else { return None };
        let (op, next) = following(lowering, residual).filter(|_| can)?;
        let takes_tiles = linear::can(lowering, next.projections.iter().map(|p| p.weight));
        Some(Self { op, norm: next.norm.filter(|_| takes_tiles)? })
    }

    /// Adds the launch instead of one of the map alone.
    pub fn launch(&self, lowering: &mut Lowering<'_>, all: &Maps<'_>, launch: MapLaunch<'_>) -> Result<()> {
        let MapLaunch { maps, shape, rows, kernel, x: mut buffers, skip } = launch;
        let (args, of_maps) = all.arguments(lowering, maps, shape, |outs| kernel.blocks(outs))?;
        buffers.extend(of_maps);
        let (exchange, end) = kernel.exchange(lowering, rows, args.n_blocks, skip)?;
        let blocks = kernel.blocks_of_rows(lowering, rows);
        let n_squares = (kernel.blocks(args.cols0) * kernel.bands * TILE_ROWS as u32).div_ceil(SQUARED_COLS);
        let bytes = (blocks * kernel.rows_each as usize).checked_mul(4 * n_squares as usize);
        let (squares, _) = lowering.scratch_bytes(end, bytes)?;
        let squared = lowering.kept(4 * blocks * kernel.part_groups as usize);
        let at = lowering.left_part();
        buffers.extend(exchange);
        buffers.extend([Argument::Weight(self.norm.weight), squares, squared, at]);
        let n_blocks = args.n_blocks;
        let args = AddNormArgs { maps: args, eps: self.norm.eps };
        let suffix = format!("_{}", kernel.rows_each);
        let of_kernel = (&ROUNDED_ADD_NORM, packing(lowering, &maps[0]), &*suffix);
        kernel.launch(lowering, of_kernel, (rows, n_blocks), args, &buffers);
        lowering.left = Some(Left { op: self.op, x: maps[0].out, norm: self.norm.weight, at });
        Ok(())
    }
}

/// The maps of a buffer that follow at once on the op that is being lowered, or the second of two that are, which changes it.
fn following<'a>(lowering: &Lowering<'a>, residual: BufferId) -> Option<(usize, &'a NormLinear)> {
    let (first, ops) = lowering.place();
    let changes = |op: &Op| {
        let mut changes = false;
        op.accesses(&mut |id, access| changes |= id == residual && access == Access::Update);
        changes
    };
    let next = first + ops[first..].iter().position(changes)? + 1;
    match ops.get(next)? {
        Op::NormLinear(maps) if maps.x == residual => Some((next, maps)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::step::tests::{GROUP, SHAPE, count, lowered};
    use super::*;
    use crate::gpu::source::{ACTIVATIONS, ROUNDED_LINEAR};
    use crate::harness::{ModelShape, Random};

    /// Of two layers: maps of one that add to rows which the same layer or the next normalises; what still converts rows,
    /// for the first layer and the head.
    #[test]
    fn rows_are_normalised_by_who_adds_to_them() {
        use Activations::{Bf16, Int8};
        // So many columns that warpgroups take even eight rows of them, but not of the maps behind the norm.
        let wide = ModelShape { n_ff: 12_288, ..SHAPE };
        for (why, shape, units, tokens, activations, left) in [
            ("all", SHAPE, 24, 20, Bf16, 3),
            ("too few processors for all columns side by side", SHAPE, 8, 20, Bf16, 0),
            ("rows are integers", SHAPE, 24, 20, Int8, 0),
            ("rows that other kernels take", wide, 24, 8, Bf16, 0),
            ("more rows, beside which prompts mostly run", SHAPE, 24, 65, Bf16, 0),
        ] {
            let case = shape.case(&mut Random::new(1), gguf::Format::Q4_0, vec![GROUP]);
            let launches = lowered(&case, units, tokens, activations);
            assert_eq!(count(&launches, &ROUNDED_ADD_NORM), left, "{why}");
            if activations == Int8 || tokens <= 8 {
                continue;
            }
            let of_generated = |source| {
                let is = |launch: &&crate::gpu::lower::Launch| {
                    std::ptr::eq(launch.source, source) && launch.grid.rows == RowsOf::Generated
                };
                launches.iter().filter(is).count()
            };
            assert_eq!(of_generated(&ROUNDED_LINEAR), 4 - left, "{why}");
            assert_eq!(of_generated(&ACTIVATIONS), 4 - left, "{why}");
        }
    }
}
