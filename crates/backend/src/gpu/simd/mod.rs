//! Linear maps on Metal: SIMD-groups that read weights as they are in the file, with the norm or
//! activation before them in the same launch. `simd_maps.h` has the body for generated rows and
//! outputs; those of prompts are multiplied by matrices ([`prompts`]).

mod moe;
mod products;
mod prompts;
pub(crate) mod qkv;

use gguf::Format;

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
/// The backend that has these kernels.
const BACKEND: &str = "metal";

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

impl SimdArgs {
    /// Sets how many threadgroups each map has.
    fn set_groups(&mut self, groups: [u32; MAX_MAPS]) {
        self.maps.n_blocks = groups.iter().sum();
        self.maps.block1 = groups[0];
        self.maps.block2 = groups[0] + groups[1];
    }
}

/// A gated activation of two buffers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gated {
    pub gate: Argument,
    pub up: Argument,
    pub activation: Activation,
}

impl Gated {
    fn gelu_tanh(&self) -> u32 {
        (self.activation == Activation::GeluTanh).into()
    }
}

/// Whether linear maps are done here.
pub(crate) fn can(lowering: &Lowering<'_>) -> bool {
    lowering.device.name == BACKEND
}

/// Whether a backend of this name may round prompts for weights of `format`, as `simd_prompts.h` says.
pub(crate) fn rounds_prompts_with(backend: &str, format: Format) -> bool {
    backend == BACKEND && format == Format::BF16
}

/// Multiplies rows; maps of one format share launches, and `skip` bytes of scratch are in use.
pub(crate) fn launch(lowering: &mut Lowering<'_>, input: &Input, maps: &Maps<'_>, skip: usize) -> Result<()> {
    for same in same_formats(lowering, maps.maps, |map| map.weight) {
        for some in same.chunks(MAX_MAPS) {
            let some = Maps { maps: some, ..*maps };
            for &rows in RowsOf::roles(maps.rows) {
                match rows {
                    RowsOf::Prompts => prompts::launch(lowering, input, &some, skip)?,
                    _ => launch_some(lowering, input, &some, rows)?,
                }
            }
        }
    }
    Ok(())
}

/// Maps by the format of their weight, in their order.
fn same_formats<M: Copy>(
    lowering: &Lowering<'_>,
    maps: &[M],
    weight: impl Fn(&M) -> WeightId,
) -> Vec<Vec<M>> {
    let format = |map: &M| lowering.weight(weight(map)).format();
    let mut groups: Vec<Vec<M>> = Vec::new();
    for map in maps {
        match groups.iter_mut().find(|group| format(&group[0]) == format(map)) {
            Some(group) => group.push(*map),
            None => groups.push(vec![*map]),
        }
    }
    groups
}

fn launch_some(lowering: &mut Lowering<'_>, input: &Input, maps: &Maps<'_>, rows: RowsOf) -> Result<()> {
    let (rows_each, outs) = rows_and_outs(lowering, maps);
    let args = args(lowering, input, maps, rows, outs * THREADS / 32)?;
    let grid = Grid { x: args.maps.n_blocks, rows, rows_each, threads: THREADS };
    let format = format_name(lowering, maps)?;
    let buffers = buffers(input, maps);
    let launch = lowering.launch_for(&SIMD_MAPS, (format, &format!("_{rows_each}")), grid, args, &buffers);
    launch.writing(&results(maps));
    Ok(())
}

/// `MAP_BUFFERS` of `simd_maps.h`, behind the inputs.
fn buffers(input: &Input, maps: &Maps<'_>) -> Vec<Argument> {
    // A launch has places for all its maps.
    let each = |argument: &dyn Fn(&Map) -> Argument| {
        [0, 1, 2].map(|i| argument(maps.maps.get(i).unwrap_or(&maps.maps[0])))
    };
    let weights = each(&|map| Argument::Weight(map.weight));
    let biases = each(&|map| Argument::Weight(map.bias.unwrap_or(map.weight)));
    let results = each(&|map| map.out);
    [&input.plain()[..], &weights, &biases, &results].concat()
}

/// What the maps make.
fn results(maps: &Maps<'_>) -> Vec<Argument> {
    maps.maps.iter().map(|map| map.out).collect()
}

/// What kernels for these maps, which have one format, are called by.
fn format_name(lowering: &Lowering<'_>, maps: &Maps<'_>) -> Result<&'static str> {
    lowering.format_name("norm_linear", lowering.weight(maps.maps[0].weight).format())
}

/// Multiplies what a gated activation makes, by the one map there is; `skip` bytes of scratch are in use.
pub(crate) fn launch_gated(
    lowering: &mut Lowering<'_>,
    gated: &Gated,
    maps: &Maps<'_>,
    skip: usize,
) -> Result<()> {
    RowsOf::roles(maps.rows).iter().try_for_each(|&rows| match rows {
        RowsOf::Prompts => prompts::launch_gated(lowering, gated, maps, skip),
        _ => launch_some_gated(lowering, gated, maps, rows),
    })
}

fn launch_some_gated(
    lowering: &mut Lowering<'_>,
    gated: &Gated,
    maps: &Maps<'_>,
    rows: RowsOf,
) -> Result<()> {
    let (rows_each, outs) = rows_and_outs(lowering, maps);
    let map = maps.maps[0];
    let weight = lowering.weight(map.weight);
    let input = Input { x: gated.gate, cols: weight.cols(), norm: None, gather: false };
    let args = args(lowering, &input, maps, rows, outs * GATED_THREADS / 32)?;
    let args = SimdArgs { gelu_tanh: gated.gelu_tanh(), ..args };
    let bias = Argument::Weight(map.bias.unwrap_or(map.weight));
    let buffers = [gated.gate, gated.up, Argument::Weight(map.weight), bias, map.out];
    let grid = Grid { x: args.maps.n_blocks, rows, rows_each, threads: GATED_THREADS };
    let name = lowering.format_name("swiglu_linear_add", weight.format())?;
    let launch = lowering.launch_for(&SIMD_GATED, (name, &format!("_{rows_each}")), grid, args, &buffers);
    launch.writing(&[map.out]);
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
fn args(
    lowering: &Lowering<'_>,
    input: &Input,
    maps: &Maps<'_>,
    rows: RowsOf,
    outs: u32,
) -> Result<SimdArgs> {
    let cols = |id: WeightId| lowering.u32(lowering.weight(id).rows());
    let mut all = [0; MAX_MAPS];
    for (cols_of, map) in all.iter_mut().zip(maps.maps) {
        *cols_of = cols(map.weight)?;
    }
    let biases = (0..).zip(maps.maps).map(|(i, map)| u32::from(map.bias.is_some()) << i).sum();
    let maps_args = TileArgs {
        shape: input.shape(lowering, rows)?,
        cols0: all[0],
        cols1: all[1],
        cols2: all[2],
        has_bias: biases,
        scale: maps.scale,
        softcap: maps.softcap.unwrap_or(0.0),
        ..TileArgs::default()
    };
    let mut args = SimdArgs { maps: maps_args, add: maps.add.into(), gelu_tanh: 0 };
    args.set_groups(all.map(|cols| cols.div_ceil(outs)));
    Ok(args)
}
