//! Launches of linear maps over tiles.

use super::convert::{Form, Input};
use super::packing::{Packing, TILE_COLS, TILE_ROWS};
use crate::gpu::args::TileArgs;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::GENERATED_LINEAR;
use crate::{Result, Rows, WeightId};

/// Threads of `generated_linear`: eight SIMD-groups.
const THREADS: u32 = 256;
/// Bands of 16 outputs that a block does of more than eight rows; of fewer it does one.
const BANDS: u32 = 4;
/// Pieces of a ring, bytes of one, and the distance of sums, as `generated_linear.h` has them.
const SLOTS: u32 = 2;
const PIECE_BYTES: u32 = 2304;
const SUMS_STRIDE: u32 = 20;
/// Maps that one launch does.
const MAX_MAPS: usize = 3;
/// Rows that a block can do, as `generated_linear.cu` has them.
const ROWS_EACH: [u32; 5] = [1, 8, 16, 32, 64];

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
    /// Converts the rows and multiplies them; `skip` bytes of scratch are in use.
    pub fn launch(&self, lowering: &mut Lowering<'_>, input: &Input, skip: usize) -> Result<()> {
        let rows = RowsOf::All(self.rows);
        for form in [Form::Quantised, Form::Split] {
            let of_form = |map: &&Map| Form::of(packing(lowering, map)) == form;
            let maps: Vec<Map> = self.maps.iter().filter(of_form).copied().collect();
            if maps.is_empty() {
                continue;
            }
            let (x, _) = input.convert(lowering, rows, form, skip)?;
            let mut rest = &maps[..];
            while let Some(first) = rest.first() {
                let same = |map: &&Map| packing(lowering, map) == packing(lowering, first);
                let n = rest.iter().take(MAX_MAPS).take_while(same).count();
                self.multiply(lowering, &rest[..n], rows, (x, input.cols))?;
                rest = &rest[n..];
            }
        }
        Ok(())
    }

    /// One launch, of maps of the same packing.
    fn multiply(
        &self,
        lowering: &mut Lowering<'_>,
        maps: &[Map],
        rows: RowsOf,
        (x, cols): (Argument, usize),
    ) -> Result<()> {
        let (first_at, end_at) = Layout::span(rows);
        let mut args = TileArgs {
            first_at,
            end_at,
            n_tiles: lowering.u32(cols.div_ceil(TILE_COLS))?,
            block1: u32::MAX,
            block2: u32::MAX,
            scale: self.scale,
            softcap: self.softcap.unwrap_or(0.0),
            ..TileArgs::default()
        };
        let rows_each = rows_each(rows.most(lowering.bucket));
        let bands_each = if rows_each <= 8 { 1 } else { BANDS };
        let mut blocks = 0;
        let mut buffers = vec![x];
        for i in 0..MAX_MAPS {
            // A map that is not there has no bands; any buffers stand for its own.
            let map = maps.get(i).unwrap_or(&maps[0]);
            let out_cols = lowering.u32(lowering.weight(map.weight).rows())?;
            if i < maps.len() {
                let starts = [&mut 0, &mut args.block1, &mut args.block2];
                *starts.into_iter().nth(i).expect("there are three") = blocks;
                let cols = [&mut args.cols0, &mut args.cols1, &mut args.cols2];
                *cols.into_iter().nth(i).expect("there are three") = out_cols;
                args.has_bias |= u32::from(map.bias.is_some()) << i;
                blocks += out_cols.div_ceil(TILE_ROWS as u32 * bands_each);
            }
            let bias = map.bias.map_or(Argument::Inputs, Argument::Weight);
            buffers.extend([Argument::Tiles(map.weight), bias, map.out]);
        }
        let grid = Grid { x: blocks, rows, rows_each, threads: THREADS };
        let suffix = format!("_{}_{rows_each}", if self.add { "add" } else { "store" });
        let packing = packing(lowering, &maps[0]);
        let launch = lowering.launch_for(&GENERATED_LINEAR, (packing.name(), &suffix), grid, args, &buffers);
        launch.early = true;
        launch.shared = shared_bytes(packing, (rows_each, bands_each), THREADS);
        Ok(())
    }
}

/// Bytes of threadgroup memory that a kernel of so many threads asks for, as `Sizes` of
/// `generated_linear.h` has them: a ring for each SIMD-group, and sums of eight rows.
pub(crate) fn shared_bytes(packing: Packing, (rows, bands): (u32, u32), threads: u32) -> u32 {
    let tile = packing.tile_bytes() as u32;
    let chunk = if bands == 1 { (PIECE_BYTES / tile).max(1) } else { 1 };
    let rows_tile = match (Form::of(packing), rows) {
        (Form::Quantised, 1) => 96,
        (Form::Quantised, _) => rows.div_ceil(8) * 640,
        (Form::Split, 1) => 384,
        (Form::Split, _) => rows.div_ceil(8) * 3072,
    };
    let ring = 8 * SLOTS + SLOTS * chunk * (bands * tile + rows_tile);
    let sums = 4 * 8 * bands * SUMS_STRIDE;
    threads / 32 * (ring + sums)
}

/// Rows that a block does, where there are at most so many.
pub(crate) fn rows_each(most: usize) -> u32 {
    ROWS_EACH.into_iter().find(|&n| n as usize >= most).unwrap_or(64)
}

fn packing(lowering: &Lowering<'_>, map: &Map) -> Packing {
    Packing::of(lowering.weight(map.weight).format()).expect("`can` was asked")
}
