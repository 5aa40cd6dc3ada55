//! How warpgroups multiply generated rows in bfloat16.

use std::collections::BTreeSet;

use super::kernel::{Kernel, Kind, MapShape, PARTS};
use super::packing::{Packing, TILE_ROWS};
use crate::gpu::lower::Device;
use crate::gpu::runtime::Activations;

/// Bands of 16 outputs that a block multiplies, one a SIMD-group; a processor has one block.
const BANDS: u32 = 16;
/// Rows that blocks can do.
const ROWS_EACH: [u32; 4] = [8, 16, 32, 64];
/// Bytes of a band's weights that are copied together.
const COPIED: u32 = 2560;
/// Bytes that a ring may have, and stages.
const BUDGET: u32 = 225 << 10;
const MOST_STAGES: u32 = 8;

impl Kernel {
    /// That for up to `most` rows.
    pub(super) fn rounded(most: usize, shape: MapShape, part_groups: u32) -> Self {
        let largest = ROWS_EACH[ROWS_EACH.len() - 1];
        let rows_each = ROWS_EACH.into_iter().find(|&rows| rows as usize >= most).unwrap_or(largest);
        let shared = shared_bytes(TileSize::of(shape.packing), rows_each);
        let bands = BANDS / shape.maps;
        Self { kind: Kind::Rounded, rows_each, bands, threads: 32 * BANDS, shared, part_groups }
    }
}

/// What a kernel is compiled with whose blocks add up parts in so many groups.
pub(super) fn groups_definition(part_groups: u32) -> String {
    format!("#define PART_GROUPS {part_groups}u\n")
}

/// Bytes of a tile, and how many are copied together at least.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TileSize {
    bytes: u32,
    together: u32,
}

impl TileSize {
    fn of(packing: Packing) -> Self {
        Self { bytes: packing.tile_bytes() as u32, together: packing.together() as u32 }
    }
}

/// Bytes of threadgroup memory, as `rounded_ring.h` lays it out from a multiple of 1024 on.
fn shared_bytes(tile: TileSize, rows: u32) -> u32 {
    let steps = (COPIED / tile.bytes).max(tile.together);
    let steps = if steps > 1 { steps / 2 * 2 } else { 1 };
    let stage = steps * (rows * 128 + BANDS * tile.bytes) + 8 * (2 + BANDS);
    1024 + (BUDGET / stage).min(MOST_STAGES) * stage
}

/// `rounded_memory.h`: [`shared_bytes`] of every kernel, which the kernels compare with their own.
pub(crate) fn header() -> String {
    let mut text = String::from(
        "#ifndef QUARREL_ROUNDED_MEMORY_H\n#define QUARREL_ROUNDED_MEMORY_H\n\
         template <unsigned int TILE_BYTES, unsigned int TOGETHER, unsigned int TOKENS> struct RoundedMemory;\n",
    );
    let sizes: BTreeSet<TileSize> = Packing::ALL.into_iter().map(TileSize::of).collect();
    for (rows, &size) in ROWS_EACH.into_iter().flat_map(|rows| sizes.iter().map(move |size| (rows, size))) {
        let TileSize { bytes, together } = size;
        let constant = format!("enum {{ BYTES = {} }};", shared_bytes(size, rows));
        text += &format!("template <> struct RoundedMemory<{bytes}, {together}, {rows}> {{ {constant} }};\n");
    }
    text + "#endif\n"
}

/// Groups of parts for `maps` side by side of so many outputs: the blocks that share a map's columns, where
/// whole maps are too few blocks for the processors.
///
/// Every kernel for generated rows in bfloat16 adds up in these groups, so that a row's sums
/// are the same however many stand beside it.
pub(super) fn part_groups(device: &Device, maps: u32, outs: &[u32]) -> u32 {
    if device.activations == Activations::Int8 || !device.has_warpgroups {
        return 1;
    }
    let rows = TILE_ROWS as u32 * BANDS / maps;
    let blocks = outs.iter().map(|outs| u64::from(outs.div_ceil(rows))).sum::<u64>();
    // Rounds that the processors need for all blocks, in twentieths of a whole map, and one
    // twentieth for the beginning and end of each.
    let cost = |&groups: &u32| {
        let at_once = (device.units / groups).max(1);
        let rounds = blocks.div_ceil(u64::from(at_once));
        rounds * 20 / u64::from(groups) + rounds
    };
    (0..=PARTS.ilog2()).map(|log| 1 << log).min_by_key(cost).expect("there is one group at least")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Multiplier;

    fn groups(activations: Activations, maps: u32, outs: &[u32]) -> u32 {
        let device = Device {
            name: "cuda",
            has_tiles: true,
            multiplier: Multiplier::default(),
            activations,
            has_warpgroups: true,
            bandwidth: None,
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
