//! Linear maps on Metal: SIMD-groups that read weights as they are in the file, with the norm or
//! activation before them in the same launch. `simd_maps.h` has their body.

use crate::gpu::args::TileArgs;
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::{SIMD_GATED, SIMD_MAPS};
use crate::gpu::tiles::convert::Input;
use crate::gpu::tiles::linear::{Map, Maps};
use crate::kernels::swiglu_linear_add::Activation;
use crate::{Result, WeightId};

/// Threads of a threadgroup, and of one whose SIMD-groups share what an activation makes.
const THREADS: u32 = 64;
const GATED_THREADS: u32 = 256;
/// Maps that one launch does.
const MAX_MAPS: usize = 3;

/// As `SimdArgs` of `simd_maps.h`.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SimdArgs {
    /// Blocks are threadgroups here; of the shape, what tells rows and norm.
    maps: TileArgs,
    /// 1 if results are added to what is there.
    add: u32,
    /// 1 for the tanh form of GELU, 0 for SiLU.
    gelu_tanh: u32,
}

/// A gated activation of two buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gated {
    pub gate: Argument,
    pub up: Argument,
    pub activation: Activation,
}

/// Whether linear maps are done here.
pub(crate) fn can(lowering: &Lowering<'_>) -> bool {
    lowering.device.name == "metal"
}

/// Multiplies rows; maps of one format share launches.
pub(crate) fn launch(lowering: &mut Lowering<'_>, input: &Input, maps: &Maps<'_>) -> Result<()> {
    let format = |lowering: &Lowering<'_>, map: &Map| lowering.weight(map.weight).format();
    let mut rest = maps.maps.to_vec();
    while let Some(first) = rest.first() {
        let first = format(lowering, first);
        let (same, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|map| format(lowering, map) == first);
        for some in same.chunks(MAX_MAPS) {
            launch_some(lowering, input, &Maps { maps: some, ..*maps })?;
        }
        rest = others;
    }
    Ok(())
}

fn launch_some(lowering: &mut Lowering<'_>, input: &Input, maps: &Maps<'_>) -> Result<()> {
    let (rows_each, outs) = rows_and_outs(lowering, maps);
    let outs = outs * THREADS / 32;
    let args = args(lowering, input, maps, outs)?;
    let first = maps.maps[0];
    // A launch has places for all its maps.
    let each =
        |argument: &dyn Fn(&Map) -> Argument| [0, 1, 2].map(|i| argument(maps.maps.get(i).unwrap_or(&first)));
    let weights = each(&|map| Argument::Weight(map.weight));
    let biases = each(&|map| Argument::Weight(map.bias.unwrap_or(map.weight)));
    let results = each(&|map| map.out);
    let buffers = [&input.plain()[..], &weights, &biases, &results].concat();
    let grid = Grid { x: args.maps.n_blocks, rows: RowsOf::All(maps.rows), rows_each, threads: THREADS };
    let format = lowering.format_name("norm_linear", lowering.weight(first.weight).format())?;
    lowering.launch_for(&SIMD_MAPS, (format, &format!("_{rows_each}")), grid, args, &buffers);
    Ok(())
}

/// Multiplies what a gated activation makes, by the one map there is.
pub(crate) fn launch_gated(lowering: &mut Lowering<'_>, gated: &Gated, maps: &Maps<'_>) -> Result<()> {
    let (rows_each, outs) = rows_and_outs(lowering, maps);
    let map = maps.maps[0];
    let weight = lowering.weight(map.weight);
    let input = Input { x: gated.gate, cols: weight.cols(), norm: None, gather: false };
    let mut args = args(lowering, &input, maps, outs * GATED_THREADS / 32)?;
    args.gelu_tanh = (gated.activation == Activation::GeluTanh).into();
    let bias = Argument::Weight(map.bias.unwrap_or(map.weight));
    let buffers = [gated.gate, gated.up, Argument::Weight(map.weight), bias, map.out];
    let grid =
        Grid { x: args.maps.n_blocks, rows: RowsOf::All(maps.rows), rows_each, threads: GATED_THREADS };
    let name = lowering.format_name("swiglu_linear_add", weight.format())?;
    lowering.launch_for(&SIMD_GATED, (name, &format!("_{rows_each}")), grid, args, &buffers);
    Ok(())
}

/// Rows and outputs that a SIMD-group does at once, as the `.metal` files have them.
fn rows_and_outs(lowering: &Lowering<'_>, maps: &Maps<'_>) -> (u32, u32) {
    match lowering.rows(maps.rows) {
        1 => (1, 4),
        2..=4 => (4, 4),
        _ => (8, 2),
    }
}

/// The arguments, where a threadgroup makes `outs` outputs.
fn args(lowering: &Lowering<'_>, input: &Input, maps: &Maps<'_>, outs: u32) -> Result<SimdArgs> {
    let cols = |id: WeightId| lowering.u32(lowering.weight(id).rows());
    let mut all = [0; MAX_MAPS];
    for (cols_of, map) in all.iter_mut().zip(maps.maps) {
        *cols_of = cols(map.weight)?;
    }
    let groups = all.map(|cols| cols.div_ceil(outs));
    let biases = (0..).zip(maps.maps).map(|(i, map)| u32::from(map.bias.is_some()) << i).sum();
    let maps_args = TileArgs {
        shape: input.shape(lowering, RowsOf::All(maps.rows))?,
        n_blocks: groups.iter().sum(),
        block1: groups[0],
        block2: groups[0] + groups[1],
        cols0: all[0],
        cols1: all[1],
        cols2: all[2],
        has_bias: biases,
        scale: maps.scale,
        softcap: maps.softcap.unwrap_or(0.0),
    };
    Ok(SimdArgs { maps: maps_args, add: maps.add.into(), gelu_tanh: 0 })
}
