//! Which kernel does a linear map of prompt rows, and with how much memory.

use std::collections::BTreeSet;

use super::kernel::{Kernel, Kind};
use super::packing::{Packing, TILE_ROWS};
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::Lowering;

/// Bands of 16 outputs that blocks of `prompt_linear` do, and those of `prompt_gated` of
/// gate and of up.
pub(crate) const LINEAR_BANDS: u32 = 8;
pub(crate) const GATED_BANDS: u32 = 4;
/// Rows that they can do, as `prompt_linear.h` has them; the most only with warpgroups.
const ROWS_EACH: [u32; 3] = [256, 128, 64];
/// Bands of weights that blocks of both multiply.
const WEIGHT_BANDS: u32 = 8;
/// Bytes between rows of sums that `prompt_gated` exchanges.
const SUMS_STRIDE: u32 = 2 * 68 * 4;

impl Kernel {
    /// That for as many prompt rows as the bucket allows, in a launch of maps of so many
    /// outputs each.
    ///
    /// The more rows a block does the better, as long as there are blocks for two thirds of
    /// the processors.
    pub fn prompts(lowering: &Lowering<'_>, packing: Packing, bands: u32, outs: &[u32]) -> Self {
        let device = &lowering.device;
        let most = RowsOf::Prompts.most(lowering.bucket);
        let n_blocks: u32 = outs.iter().map(|outs| outs.div_ceil(bands * TILE_ROWS as u32)).sum();
        let enough = |&&rows: &&u32| {
            let blocks = (n_blocks as usize).saturating_mul(most.div_ceil(rows as usize));
            blocks >= device.units as usize * 2 / 3
        };
        let usable = rows_each(device.has_warpgroups);
        let least = usable[usable.len() - 1];
        let rows_each = usable.iter().find(enough).copied().unwrap_or(least);
        Self::of_prompts(packing, rows_each, bands, device.has_warpgroups)
    }

    /// That for blocks of so many rows, one of those that there are.
    pub(super) fn of_prompts(packing: Packing, rows_each: u32, bands: u32, has_warpgroups: bool) -> Self {
        let shared = shared_bytes(packing.own_bytes(), rows_each, has_warpgroups);
        // Warpgroups have another that copies.
        let threads = if has_warpgroups { 384 } else { 256 };
        Self { kind: Kind::Prompt, rows_each, bands, threads, shared, part_groups: 1 }
    }
}

/// Rows of a block for experts with so many rows each, about.
pub(super) fn expert_rows(has_warpgroups: bool, average: usize) -> u32 {
    let usable = rows_each(has_warpgroups);
    let least = usable[usable.len() - 1];
    usable.iter().find(|&&rows| rows as usize <= average).copied().unwrap_or(least)
}

fn rows_each(has_warpgroups: bool) -> &'static [u32] {
    if has_warpgroups { &ROWS_EACH } else { &ROWS_EACH[1..] }
}

/// Places for what tiles share.
const SHARED_SLOTS: u32 = 3;

/// Bytes of threadgroup memory, as `PromptRing` of `prompt_product.h` lays it out from a multiple
/// of 1024 on.
fn shared_bytes((own, shared): (usize, usize), rows: u32, has_warpgroups: bool) -> u32 {
    let stage = rows * 128 + WEIGHT_BANDS * own as u32;
    let shared = SHARED_SLOTS * WEIGHT_BANDS * shared as u32;
    let (budget, most) = match (has_warpgroups, rows) {
        (false, _) => (96 << 10, 3),
        (true, 64) => (110 << 10, 8),
        (true, _) => (225 << 10, 8),
    };
    let stages = ((budget - shared) / stage).min(most);
    let barriers = 16;
    1024 + (stages * (stage + barriers) + shared).max(rows * SUMS_STRIDE)
}

/// `prompt_memory.h`: [`shared_bytes`] of every kernel, which the kernels compare with their own.
pub(crate) fn header() -> String {
    let mut text = String::from(
        "#ifndef QUARREL_PROMPT_MEMORY_H\n#define QUARREL_PROMPT_MEMORY_H\n#include \"matrix.h\"\n\
         template <unsigned int OWN, unsigned int SHARED, unsigned int TOKENS> struct PromptMemory;\n",
    );
    let sizes: BTreeSet<_> = Packing::ALL.iter().map(|packing| packing.own_bytes()).collect();
    for (condition, has_warpgroups) in [("#if MATRIX_UNIT == 90\n", true), ("#else\n", false)] {
        text += condition;
        for &rows in rows_each(has_warpgroups) {
            for &size in &sizes {
                let bytes = shared_bytes(size, rows, has_warpgroups);
                let constant = format!("enum {{ BYTES = {bytes} }};");
                let (own, shared) = size;
                text +=
                    &format!("template <> struct PromptMemory<{own}, {shared}, {rows}> {{ {constant} }};\n");
            }
        }
    }
    text + "#endif\n#endif\n"
}
