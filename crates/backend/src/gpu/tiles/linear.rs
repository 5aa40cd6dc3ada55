//! Launches of linear maps over tiles.

use super::convert::{Converted, Form, Input};
use super::kernel::{Kernel, Kind, MapShape};
use super::normalised::NextNorm;
use super::packing::{Packing, TILE_COLS};
use super::prompts;
use crate::gpu::args::{TileArgs, TileShape};
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Lowering};
use crate::gpu::source::{GENERATED_LINEAR, PROMPT_LINEAR, ROUNDED_LINEAR};
use crate::{Result, Rows, WeightId};

/// Bands of 16 outputs that a block does at once, of more than eight generated rows.
const BANDS: u32 = 4;
const NO_MEMORY: &str = "a threadgroup's memory is too small for its rows; use the CPU backend";
/// Maps that one launch does.
pub(super) const MAX_MAPS: usize = 3;

/// One map and where its results go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Map {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub out: Argument,
}

/// Maps of the same rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maps<'a> {
    pub maps: &'a [Map],
    pub rows: Rows,
    /// Multiplies the results.
    pub scale: f32,
    /// Caps the results; not of prompt rows.
    pub softcap: Option<f32>,
    /// Whether results are added to what is there.
    pub add: bool,
}

/// One launch, of maps of the same packing.
pub(super) struct MapLaunch<'a> {
    pub maps: &'a [Map],
    pub shape: TileShape,
    pub rows: RowsOf,
    pub kernel: Kernel,
    /// The buffers of the rows.
    pub x: Vec<Argument>,
    /// Bytes of scratch in use.
    pub skip: usize,
}

/// Whether kernels over tiles can do maps with all these weights.
pub(crate) fn can(lowering: &Lowering<'_>, weights: impl IntoIterator<Item = WeightId>) -> bool {
    // Activations are read four at a time.
    let fits = |id| {
        let weight = lowering.weight(id);
        Packing::of(weight.format()).is_some() && weight.cols().is_multiple_of(4)
    };
    lowering.device.has_tiles && weights.into_iter().all(fits)
}

impl Maps<'_> {
    /// Multiplies rows, which are converted first unless the kernel does it; `skip` bytes
    /// of scratch are in use.
    pub fn launch(&self, lowering: &mut Lowering<'_>, input: &Input, skip: usize) -> Result<()> {
        // One after the other: they may use the same scratch.
        let mut roles = RowsOf::roles(self.rows).iter();
        roles.try_for_each(|&rows| self.launch_rows(lowering, input, rows, skip, None))
    }

    /// The same for some of the rows; `converted` says where they are if they are converted already.
    pub fn launch_rows(
        &self,
        lowering: &mut Lowering<'_>,
        input: &Input,
        rows: RowsOf,
        skip: usize,
        converted: Option<Converted>,
    ) -> Result<()> {
        self.each(lowering, input, rows, skip, converted, &|lowering, launch| self.multiply(lowering, launch))
    }

    /// Calls `multiply` for each of the launches that maps of some of the rows take, behind what converts the rows.
    pub(super) fn each(
        &self,
        lowering: &mut Lowering<'_>,
        input: &Input,
        rows: RowsOf,
        skip: usize,
        converted: Option<Converted>,
        multiply: &dyn Fn(&mut Lowering<'_>, MapLaunch<'_>) -> Result<()>,
    ) -> Result<()> {
        for form in [Form::Quantised, Form::Split, Form::Rounded, Form::Prompt] {
            let of_form = |map: &&Map| Form::of(&lowering.device, packing(lowering, map), rows) == form;
            let maps: Vec<Map> = self.maps.iter().filter(of_form).copied().collect();
            let (mut rest, mut converted, mut end) = (&maps[..], converted, skip);
            while let Some(first) = rest.first() {
                let same = |map: &&Map| packing(lowering, map) == packing(lowering, first);
                let (maps, later) = rest.split_at(rest.iter().take(MAX_MAPS).take_while(same).count());
                let kernel = kernel(lowering, input, rows, maps)?;
                let form = kernel.form(lowering, packing(lowering, first));
                let x = match converted {
                    Some(known) if known.form == form && known.is_single == kernel.converts() => {
                        vec![known.x]
                    }
                    _ if kernel.converts() => input.plain().to_vec(),
                    _ => {
                        let x;
                        (x, end) = input.convert(lowering, rows, form, skip)?;
                        converted = Some(Converted { form, is_single: false, x });
                        vec![x]
                    }
                };
                let shape = TileShape { groups: kernel.part_groups, ..input.shape(lowering, rows)? };
                multiply(lowering, MapLaunch { maps, shape, rows, kernel, x, skip: end })?;
                rest = later;
            }
        }
        Ok(())
    }

    /// What a kernel must know of maps of the same packing, each of so many blocks, and its buffers for them.
    pub(super) fn arguments(
        &self,
        lowering: &Lowering<'_>,
        maps: &[Map],
        shape: TileShape,
        blocks: impl Fn(u32) -> u32,
    ) -> Result<(TileArgs, Vec<Argument>)> {
        let mut buffers = Vec::new();
        let mut args = TileArgs {
            shape,
            block1: u32::MAX,
            block2: u32::MAX,
            scale: self.scale,
            softcap: self.softcap.unwrap_or(0.0),
            ..TileArgs::default()
        };
        for i in 0..MAX_MAPS {
            // A map that is not there has no blocks; any buffers stand for its own.
            let map = maps.get(i).unwrap_or(&maps[0]);
            let out_cols = lowering.u32(lowering.weight(map.weight).rows())?;
            if i < maps.len() {
                match i {
                    0 => args.cols0 = out_cols,
                    1 => (args.block1, args.cols1) = (args.n_blocks, out_cols),
                    _ => (args.block2, args.cols2) = (args.n_blocks, out_cols),
                }
                args.has_bias |= u32::from(map.bias.is_some()) << i;
                args.n_blocks += blocks(out_cols);
            }
            let bias = map.bias.map_or(Argument::Inputs, Argument::Weight);
            buffers.extend([Argument::Tiles(map.weight), bias, map.out]);
        }
        Ok((args, buffers))
    }

    fn multiply(&self, lowering: &mut Lowering<'_>, launch: MapLaunch<'_>) -> Result<()> {
        if let Some(next) = NextNorm::find(lowering, self, &launch) {
            return next.launch(lowering, self, launch);
        }
        let MapLaunch { maps, shape, rows, kernel, x: mut buffers, skip } = launch;
        let is_converted = buffers.len() == 1;
        let (args, of_maps) = self.arguments(lowering, maps, shape, |outs| kernel.blocks(outs))?;
        buffers.extend(of_maps);
        if kernel.kind == Kind::Rounded {
            buffers.extend(kernel.exchange(lowering, rows, args.n_blocks, skip)?.0);
        }
        // A single row is converted by the kernel or before it.
        let converted = if kernel.converts() && is_converted { "c" } else { "" };
        let suffix = format!("_{}_{}{converted}", if self.add { "add" } else { "store" }, kernel.rows_each);
        let source = match kernel.kind {
            Kind::Generated => &GENERATED_LINEAR,
            Kind::Rounded => &ROUNDED_LINEAR,
            Kind::Prompt => &PROMPT_LINEAR,
        };
        let of_kernel = (source, packing(lowering, &maps[0]), &*suffix);
        let launch = kernel.launch(lowering, of_kernel, (rows, args.n_blocks), args, &buffers);
        if !is_converted {
            launch.definitions += &kernel.row_definition(shape.cols as usize);
        }
        Ok(())
    }
}

/// How the kernel of a single map takes rows, and how many at once.
pub(super) fn takes(
    lowering: &Lowering<'_>,
    weight: WeightId,
    input: &Input,
    rows: RowsOf,
) -> Result<(Form, u32)> {
    let map = Map { weight, bias: None, out: Argument::Inputs };
    let kernel = kernel(lowering, input, rows, &[map])?;
    Ok((kernel.form(lowering, packing(lowering, &map)), kernel.rows_each))
}

/// The kernel for maps of the same packing.
pub(super) fn kernel(lowering: &Lowering<'_>, input: &Input, rows: RowsOf, maps: &[Map]) -> Result<Kernel> {
    let packing = packing(lowering, &maps[0]);
    let outs = maps.iter().map(|map| lowering.u32(lowering.weight(map.weight).rows()));
    let outs: Vec<u32> = outs.collect::<Result<_>>()?;
    if rows == RowsOf::Prompts {
        return Ok(Kernel::prompts(lowering, packing, prompts::LINEAR_BANDS, &outs));
    }
    let n_tiles = lowering.u32(input.cols.div_ceil(TILE_COLS))?;
    let shape = MapShape { packing, n_tiles, maps: 1, bands: BANDS };
    let kernel = Kernel::generated(lowering, rows, shape, &outs);
    kernel.ok_or_else(|| lowering.absent("linear", format!("{} columns", input.cols), NO_MEMORY))
}

pub(super) fn packing(lowering: &Lowering<'_>, map: &Map) -> Packing {
    Packing::of(lowering.weight(map.weight).format()).expect("`can` was asked")
}
