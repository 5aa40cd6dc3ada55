//! How many rows and outputs a block of threads does, and what it needs for them.

use super::convert::Form;
use super::packing::{Packing, TILE_ROWS};
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::Lowering;

/// Threads of `generated_linear`, eight SIMD-groups, and of `generated_gated`, eight for
/// each of the two weights.
const LINEAR_THREADS: u32 = 256;
const GATED_THREADS: u32 = 512;
/// Bands of 16 outputs that their blocks do of more than eight rows; of fewer they do one.
const LINEAR_BANDS: u32 = 4;
const GATED_BANDS: u32 = 2;
/// Rows that their blocks can do, as `generated_linear.cu` has them.
const GENERATED_ROWS: [u32; 5] = [1, 8, 16, 32, 64];
/// Pieces of a ring, bytes of one, and the distance of sums, as `generated_linear.h` has them.
const SLOTS: u32 = 2;
const PIECE_BYTES: u32 = 2304;
const SUMS_STRIDE: u32 = 20;

/// Outputs that blocks of `prompt_linear` and `prompt_gated` do.
const PROMPT_LINEAR_OUTS: u32 = 128;
const PROMPT_GATED_OUTS: u32 = 64;
/// Rows that they can do, as `prompt_linear.h` has them. The most are best, as long as there
/// are blocks for most of the device's processors.
const PROMPT_ROWS: [u32; 3] = [256, 128, 64];
const ENOUGH_BLOCKS: u32 = 90;

/// A block of threads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub rows: u32,
    pub outs: u32,
    pub threads: u32,
    /// Bytes of threadgroup memory.
    pub shared: u32,
}

impl Block {
    /// The block of a launch that does linear maps of so many outputs each.
    pub fn linear(lowering: &Lowering<'_>, packing: Packing, rows: RowsOf, outs: &[u32]) -> Self {
        match rows {
            RowsOf::Prompts => Self::prompts(lowering, packing, PROMPT_LINEAR_OUTS, outs),
            _ => Self::generated(packing, rows.most(lowering.bucket), LINEAR_BANDS, LINEAR_THREADS),
        }
    }

    /// The block of a launch that does gate and up.
    pub fn gated(lowering: &Lowering<'_>, packing: Packing, rows: RowsOf, outs: u32) -> Self {
        match rows {
            RowsOf::Prompts => Self::prompts(lowering, packing, PROMPT_GATED_OUTS, &[outs]),
            _ => Self::generated(packing, rows.most(lowering.bucket), GATED_BANDS, GATED_THREADS),
        }
    }

    /// Blocks that do so many outputs.
    pub fn count(&self, outs: u32) -> u32 {
        outs.div_ceil(self.outs)
    }

    fn generated(packing: Packing, most_rows: usize, most_bands: u32, threads: u32) -> Self {
        let rows = GENERATED_ROWS.into_iter().find(|&n| n as usize >= most_rows).unwrap_or(64);
        let bands = if rows <= 8 { 1 } else { most_bands };
        let shared = generated_bytes(packing, (rows, bands), threads);
        Self { rows, outs: bands * TILE_ROWS as u32, threads, shared }
    }

    fn prompts(lowering: &Lowering<'_>, packing: Packing, block_outs: u32, outs: &[u32]) -> Self {
        let warpgroups = lowering.has_warpgroups;
        let across: u32 = outs.iter().map(|outs| outs.div_ceil(block_outs)).sum();
        let most_rows = RowsOf::Prompts.most(lowering.bucket);
        let enough =
            |&rows: &u32| most_rows.div_ceil(rows as usize) * across as usize >= ENOUGH_BLOCKS as usize;
        let known = &PROMPT_ROWS[usize::from(!warpgroups)..];
        let rows = known.iter().copied().find(enough).unwrap_or(64);
        let threads = if warpgroups { 384 } else { 256 };
        Self { rows, outs: block_outs, threads, shared: prompt_bytes(packing, rows, warpgroups) }
    }
}

/// Bytes of threadgroup memory that a kernel of so many threads asks for, as `Sizes` of
/// `generated_linear.h` has them: a ring for each SIMD-group, and sums of eight rows.
fn generated_bytes(packing: Packing, (rows, bands): (u32, u32), threads: u32) -> u32 {
    let tile = packing.tile_bytes() as u32;
    let chunk = if bands == 1 { (PIECE_BYTES / tile).max(1) } else { 1 };
    let rows_tile = match (Form::of(packing, RowsOf::Generated), rows) {
        (Form::Split, 1) => 384,
        (Form::Split, _) => rows.div_ceil(8) * 3072,
        (_, 1) => 96,
        (..) => rows.div_ceil(8) * 640,
    };
    let ring = 8 * SLOTS + SLOTS * chunk * (bands * tile + rows_tile);
    let sums = 4 * 8 * bands * SUMS_STRIDE;
    threads / 32 * (ring + sums)
}

/// The same as `Ring` of `prompt_product.h` has it, which starts at a multiple of 1024 and
/// where results of `prompt_gated` are exchanged in the end.
fn prompt_bytes(packing: Packing, rows: u32, warpgroups: bool) -> u32 {
    let stage = rows * 128 + 8 * packing.tile_bytes() as u32;
    let (budget, most) = match (warpgroups, rows) {
        (false, _) => (96, 3),
        (true, 64) => (110, 8),
        (true, _) => (225, 8),
    };
    let stages = (budget * 1024 / stage).min(most);
    1024 + (stages * (stage + 16)).max(rows * 2 * 68 * 4)
}
