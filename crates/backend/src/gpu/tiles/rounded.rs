//! How warpgroups multiply generated rows in bfloat16.

use super::kernel::{Kernel, Kind, MapShape, PARTS};
use super::packing::TILE_ROWS;
use crate::gpu::lower::Device;
use crate::gpu::runtime::Activations;

/// Bands of 16 outputs that a block multiplies, one a SIMD-group; one more copies. Of one map
/// two blocks share a processor.
const MAP_BANDS: u32 = 8;
const GATED_BANDS: u32 = 16;
/// Rows that blocks can do.
const ROWS_EACH: [u32; 4] = [8, 16, 32, 64];
/// Stages that a ring may have.
const MOST_STAGES: u32 = 8;

impl Kernel {
    /// That for up to `most` rows.
    pub(super) fn rounded(most: usize, shape: MapShape, part_groups: u32) -> Self {
        let largest = ROWS_EACH[ROWS_EACH.len() - 1];
        let rows_each = ROWS_EACH.into_iter().find(|&rows| rows as usize >= most).unwrap_or(largest);
        // As `rounded.h` lays it out, from a multiple of 1024 on.
        let (bands, budget) = if shape.maps == 1 { (MAP_BANDS, 111 << 10) } else { (GATED_BANDS, 225 << 10) };
        let copied = if shape.maps == 1 && rows_each > 16 { 1280 } else { 2560 };
        let tile = shape.packing.tile_bytes() as u32;
        let steps = (copied / tile).max(1);
        let sums = rows_each / 2 * 32 * bands * 4;
        let stage = steps * (rows_each * 128 + bands * tile);
        let stages = ((budget - sums) / stage).min(MOST_STAGES);
        let shared = 1024 + stages * (stage + 16) + sums;
        let threads = 32 * (bands + 1);
        Self { kind: Kind::Rounded, rows_each, bands: bands / shape.maps, threads, shared, part_groups }
    }
}

/// Groups of parts for `maps` side by side of so many outputs: the blocks of a cluster, which
/// share a map's columns, where whole maps are too few blocks for the processors.
///
/// Every kernel for generated rows in bfloat16 adds up in these groups, so that a row's sums
/// are the same however many stand beside it.
pub(super) fn part_groups(device: &Device, maps: u32, outs: &[u32]) -> u32 {
    if device.activations == Activations::Int8 || !device.has_warpgroups {
        return 1;
    }
    let (bands, side_by_side) = if maps == 1 { (MAP_BANDS, 2) } else { (GATED_BANDS / 2, 1) };
    let blocks = outs.iter().map(|outs| u64::from(outs.div_ceil(TILE_ROWS as u32 * bands))).sum::<u64>();
    // Rounds that the processors need for all blocks, in twentieths of a whole map, and one
    // twentieth for the beginning and end of each.
    let cost = |&groups: &u32| {
        // Clusters lie within groups of processors, which leaves some without.
        let at_once = (device.units * side_by_side / 8 * 8 / groups).max(1);
        let rounds = blocks.div_ceil(u64::from(at_once));
        rounds * 20 / u64::from(groups) + rounds
    };
    (0..=PARTS.ilog2()).map(|log| 1 << log).min_by_key(cost).expect("there is one group at least")
}
