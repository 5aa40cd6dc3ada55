//! Launches of linear maps over tiles.

use super::convert::{Form, Input};
use super::generated::{Generated, MapShape};
use super::packing::{Packing, TILE_ROWS};
use crate::gpu::args::{TileArgs, TileShape};
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::GENERATED_LINEAR;
use crate::{Result, Rows, WeightId};

/// Bands of 16 outputs that a block does at once, of more than eight rows.
const BANDS: u32 = 4;
const NO_MEMORY: &str = "a threadgroup's memory is too small for its rows; use the CPU backend";
/// Maps that one launch does.
const MAX_MAPS: usize = 3;

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
    /// Caps the results.
    pub softcap: Option<f32>,
    /// Whether results are added to what is there.
    pub add: bool,
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
        let rows = RowsOf::All(self.rows);
        let tile_shape = input.shape(lowering, rows)?;
        for form in [Form::Quantised, Form::Split] {
            let of_form = |map: &&Map| Form::of(packing(lowering, map)) == form;
            let maps: Vec<Map> = self.maps.iter().filter(of_form).copied().collect();
            let mut converted = None;
            let mut rest = &maps[..];
            while let Some(first) = rest.first() {
                let packing_of_first = packing(lowering, first);
                let same = |map: &&Map| packing(lowering, map) == packing_of_first;
                let n = rest.iter().take(MAX_MAPS).take_while(same).count();
                let shape = MapShape {
                    packing: packing_of_first,
                    n_tiles: tile_shape.n_tiles,
                    maps: 1,
                    bands: BANDS,
                };
                let kernel = Generated::choose(lowering, rows, shape)
                    .ok_or_else(|| lowering.absent("linear", format!("{} columns", input.cols), NO_MEMORY))?;
                let x = match converted {
                    _ if kernel.converts() => input.plain().to_vec(),
                    Some(x) => vec![x],
                    None => {
                        let (x, _) = input.convert(lowering, rows, form, skip)?;
                        converted = Some(x);
                        vec![x]
                    }
                };
                self.multiply(lowering, &rest[..n], (tile_shape, shape, kernel), x)?;
                rest = &rest[n..];
            }
        }
        Ok(())
    }

    /// One launch, of maps of the same packing; `buffers` are those of the rows.
    fn multiply(
        &self,
        lowering: &mut Lowering<'_>,
        maps: &[Map],
        (tile_shape, shape, kernel): (TileShape, MapShape, Generated),
        mut buffers: Vec<Argument>,
    ) -> Result<()> {
        let mut args = TileArgs {
            shape: tile_shape,
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
                args.n_blocks += out_cols.div_ceil(TILE_ROWS as u32 * kernel.bands);
            }
            let bias = map.bias.map_or(Argument::Inputs, Argument::Weight);
            buffers.extend([Argument::Tiles(map.weight), bias, map.out]);
        }
        let Generated { rows_each, threads, shared, .. } = kernel;
        let x = kernel.groups(&lowering.device, args.n_blocks);
        let grid = Grid { x, rows: RowsOf::All(self.rows), rows_each, threads };
        let suffix = format!("_{}_{rows_each}", if self.add { "add" } else { "store" });
        let launch =
            lowering.launch_for(&GENERATED_LINEAR, (shape.packing.name(), &suffix), grid, args, &buffers);
        launch.early = true;
        launch.shared = shared;
        Ok(())
    }
}

fn packing(lowering: &Lowering<'_>, map: &Map) -> Packing {
    Packing::of(lowering.weight(map.weight).format()).expect("`can` was asked")
}
