//! Linear maps of prompt rows by a library of the driver's: weights become floats in scratch, which it
//! multiplies rows by. `simd_products.metal` has what stands before and behind.

use super::{SimdArgs, args, format_name};
use crate::gpu::Library;
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::product::Product;
use crate::gpu::source::{self, SIMD_PRODUCTS};
use crate::gpu::tiles::convert::Input;
use crate::gpu::tiles::linear::{Map, Maps};
use crate::{Result, Rows};

const THREADS: u32 = 256;
/// Weights that a thread unpacks.
const WEIGHTS_EACH: usize = 16;
const ROWS: RowsOf = RowsOf::Prompts;

/// As `simd_products.metal` has it.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct WeightArgs {
    cols: u32,
    outs: u32,
}

/// Multiplies rows by maps of one format, one after the other; `skip` bytes of scratch are in use.
pub(super) fn launch(
    lowering: &mut Lowering<'_>,
    by: Library,
    input: &Input,
    maps: &Maps<'_>,
    skip: usize,
) -> Result<()> {
    let (x, skip) = normalised(lowering, input, maps, skip)?;
    maps.maps
        .iter()
        .try_for_each(|&map| multiply(lowering, (by, x), &Maps { maps: &[map], ..*maps }, map, skip))
}

/// Rows as the map takes them, behind the norm if there is one, and what of scratch is in use then.
fn normalised(
    lowering: &mut Lowering<'_>,
    input: &Input,
    maps: &Maps<'_>,
    skip: usize,
) -> Result<(Argument, usize)> {
    if input.norm.is_none() {
        return Ok((input.x, skip));
    }
    let (out, skip) = lowering.scratch(skip, Rows::Tokens, input.cols)?;
    let args = args(lowering, input, maps, ROWS, 1)?;
    let grid = Grid { x: 1, rows: ROWS, rows_each: 1, threads: THREADS };
    let definitions = source::weight_format(format_name(lowering, maps)?);
    let [x, norm] = input.plain();
    let launch = lowering.launch(&SIMD_PRODUCTS, "normalise_prompts", grid, args, &[x, norm, out]);
    launch.writing(&[out]).definitions = definitions;
    Ok((out, skip))
}

/// One map: its weight as floats, the product, and what is added to it.
fn multiply(
    lowering: &mut Lowering<'_>,
    (by, x): (Library, Argument),
    maps: &Maps<'_>,
    map: Map,
    skip: usize,
) -> Result<()> {
    let weight = lowering.weight(map.weight);
    let shape = WeightArgs { cols: lowering.u32(weight.cols())?, outs: lowering.u32(weight.rows())? };
    let floats = weight.rows().checked_mul(weight.cols()).and_then(|n| n.checked_mul(4));
    let (w, skip) = lowering.scratch_bytes(skip, floats)?;
    // What a library cannot add to what is there goes to scratch first.
    let adds_apart = maps.add && !by.adds();
    let out = if adds_apart { lowering.scratch(skip, Rows::Tokens, weight.rows())?.0 } else { map.out };
    let tasks = weight.rows().saturating_mul(weight.cols().div_ceil(WEIGHTS_EACH));
    // One row of threadgroups, if there are rows at all.
    let groups = lowering.u32(tasks.div_ceil(THREADS as usize))?;
    let grid = Grid { x: groups, rows: ROWS, rows_each: u32::MAX, threads: THREADS };
    let format = format_name(lowering, maps)?;
    let WeightArgs { cols, outs } = shape;
    let product = Product { by, x, w, out, cols, outs, scale: maps.scale, adds: maps.add && by.adds() };
    let buffers = [Argument::Weight(map.weight), w];
    let launch = lowering.launch_for(&SIMD_PRODUCTS, (format, ""), grid, shape, &buffers);
    launch.writing(&[w, out]).product = Some(product);
    let mut add = |entry, buffers: &[Argument]| -> Result<()> {
        let input = Input { x, cols: weight.cols(), norm: None, gather: false };
        let args: SimdArgs = args(lowering, &input, maps, ROWS, THREADS)?;
        let grid = Grid { x: outs.div_ceil(THREADS), rows: ROWS, rows_each: 1, threads: THREADS };
        let launch = lowering.launch(&SIMD_PRODUCTS, entry, grid, args, buffers);
        launch.writing(&[map.out]).definitions = source::weight_format(format);
        Ok(())
    };
    if adds_apart {
        add("add_product", &[out, map.out])?;
    }
    map.bias.map_or(Ok(()), |bias| add("add_bias", &[Argument::Weight(bias), map.out]))
}
