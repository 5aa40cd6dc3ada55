//! Linear maps of prompt rows, by matrices of 8x8 (`simd_prompts.h` has their body) or by tensor operations
//! (`tensor_prompts.h`).

use super::{Gated, SimdArgs, args, buffers, format_name, products, results};
use crate::gpu::Multiplier;
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::{self, SIMD_PROMPTS, SIMD_TENSORS};
use crate::gpu::tiles::convert::Input;
use crate::gpu::tiles::linear::Maps;
use crate::{Result, Rows};

/// Rows and outputs of a threadgroup, and its threads.
const TILE: u32 = 64;
const THREADS: u32 = 128;
/// Threads of a threadgroup that activates.
const ACTIVATE_THREADS: u32 = 256;

/// Multiplies rows by up to three maps of one format; `skip` bytes of scratch are in use.
pub(super) fn launch(lowering: &mut Lowering<'_>, input: &Input, maps: &Maps<'_>, skip: usize) -> Result<()> {
    let source = match lowering.device.multiplier {
        Multiplier::Kernels => &SIMD_PROMPTS,
        Multiplier::Tensors => &SIMD_TENSORS,
        Multiplier::Library(by) => return products::launch(lowering, by, input, maps, skip),
    };
    let rows = RowsOf::Prompts;
    let args = args(lowering, input, maps, rows, TILE)?;
    let grid = Grid { x: args.maps.n_blocks, rows, rows_each: TILE, threads: THREADS };
    let format = format_name(lowering, maps)?;
    let launch = lowering.launch_for(source, (format, ""), grid, args, &buffers(input, maps));
    launch.writing(&results(maps));
    Ok(())
}

/// Multiplies what a gated activation makes, which goes to scratch behind `skip` bytes.
pub(super) fn launch_gated(
    lowering: &mut Lowering<'_>,
    gated: &Gated,
    maps: &Maps<'_>,
    skip: usize,
) -> Result<()> {
    let rows = RowsOf::Prompts;
    let cols = lowering.weight(maps.maps[0].weight).cols();
    let (x, skip) = lowering.scratch(skip, Rows::Tokens, cols)?;
    let input = Input { x, cols, norm: None, gather: false };
    let args = SimdArgs { gelu_tanh: gated.gelu_tanh(), ..args(lowering, &input, maps, rows, TILE)? };
    let groups = args.maps.shape.cols.div_ceil(ACTIVATE_THREADS);
    let grid = Grid { x: groups, rows, rows_each: 1, threads: ACTIVATE_THREADS };
    let definitions = source::weight_format(format_name(lowering, maps)?);
    let buffers: [Argument; 3] = [gated.gate, gated.up, x];
    let activation = lowering.launch(&SIMD_PROMPTS, "activate_prompts", grid, args, &buffers);
    activation.writing(&[x]).definitions = definitions;
    launch(lowering, &input, maps, skip)
}
