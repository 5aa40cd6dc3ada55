//! How warpgroups multiply generated rows in bfloat16.

use std::collections::BTreeSet;

use super::kernel::{Kernel, Kind, MapShape, PARTS};
use super::packing::{Packing, TILE_ROWS};
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
        let bands = if shape.maps == 1 { MAP_BANDS } else { GATED_BANDS };
        let shared = shared_bytes(shape.packing.tile_bytes() as u32, rows_each, bands);
        let threads = 32 * (bands + 1);
        Self { kind: Kind::Rounded, rows_each, bands: bands / shape.maps, threads, shared, part_groups }
    }
}

/// Bytes of threadgroup memory, as `rounded.h` lays it out from a multiple of 1024 on.
fn shared_bytes(tile: u32, rows: u32, bands: u32) -> u32 {
    let budget = if bands == MAP_BANDS { 111 << 10 } else { 225 << 10 };
    let copied = if bands == MAP_BANDS && rows > 16 { 1280 } else { 2560 };
    let sums = rows / 2 * 32 * bands * 4;
    let stage = (copied / tile).max(1) * (rows * 128 + bands * tile);
    let stages = ((budget - sums) / stage).min(MOST_STAGES);
    1024 + stages * (stage + 16) + sums
}

/// `rounded_memory.h`: [`shared_bytes`] of every kernel, which the kernels compare with their own.
pub(crate) fn header() -> String {
    let mut text = String::from(
        "#ifndef QUARREL_ROUNDED_MEMORY_H\n#define QUARREL_ROUNDED_MEMORY_H\n\
         template <unsigned int TILE_BYTES, unsigned int TOKENS, unsigned int BANDS> struct RoundedMemory;\n",
    );
    let sizes: BTreeSet<usize> = Packing::ALL.iter().map(|packing| packing.tile_bytes()).collect();
    for bands in [MAP_BANDS, GATED_BANDS] {
        for (rows, &size) in ROWS_EACH.into_iter().flat_map(|rows| sizes.iter().map(move |size| (rows, size)))
        {
            let constant = format!("enum {{ BYTES = {} }};", shared_bytes(size as u32, rows, bands));
            text += &format!("template <> struct RoundedMemory<{size}, {rows}, {bands}> {{ {constant} }};\n");
        }
    }
    text + "#endif\n"
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

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(activations: Activations, maps: u32, outs: &[u32]) -> u32 {
        let device = Device {
            name: "cuda",
            has_tiles: true,
            multiplies: false,
            activations,
            has_warpgroups: true,
            units: 132,
            shared_limit: 227 << 10,
        };
        part_groups(&device, maps, outs)
    }

    #[test]
    fn maps_of_few_outputs_are_shared_among_blocks() {
        // Mistral-7B: q, k and v; output and down; gate and up; head.
        let of = |maps, outs: &[u32]| groups(Activations::Bf16, maps, outs);
        assert_eq!(of(1, &[4096, 1024, 1024]), 4);
        assert_eq!(of(1, &[4096]), 8);
        assert_eq!(of(2, &[14336]), 1);
        assert_eq!(of(1, &[32768]), 1);
        assert_eq!(groups(Activations::Int8, 1, &[4096]), 1);
    }
}
