//! Random weights and inputs for cases.

use gguf::Format;
use gguf::format::{Support, f16};

use super::Random;
use crate::{CacheConfig, CacheLayerConfig, GroupConfig, GroupInputs, KvFormat, NO_PAGE, Role};
use crate::{SequenceInputs, StepInputs, TokenInputs, Weight};

/// Every format that is computed with.
pub fn formats() -> impl Iterator<Item = Format> {
    Format::ALL.iter().copied().filter(|format| format.support() != Support::Listed)
}

/// A row length that `format` allows and that is not round: 576, 80 or 768.
pub fn odd_cols(format: Format) -> usize {
    match format.block_len() {
        1 => 80,
        256 => 768,
        block_len => 18 * block_len,
    }
}

/// A matrix whose outputs are about as large as its inputs.
pub fn matrix(random: &mut Random, name: &str, format: Format, rows: usize, cols: usize) -> Weight {
    let mut bytes = Vec::with_capacity(rows * format.row_bytes(cols).expect("cases fit their formats"));
    // Uniform values of this size have a root mean square of 1/√cols.
    let magnitude = (3.0 / cols as f32).sqrt();
    // Quantising is slow, so that a few blocks are drawn and then dealt at random.
    let n_blocks = rows * cols / format.block_len();
    let blocks: Vec<Vec<u8>> = (0..n_blocks.min(100)).map(|_| block(random, format, magnitude)).collect();
    for _ in 0..n_blocks {
        bytes.extend(&blocks[random.below(blocks.len())]);
    }
    Weight::new(name, format, rows, cols, bytes.into()).expect("cases fit their formats")
}

/// A normalisation's weight, around 1.
pub fn norm_weight(random: &mut Random, len: usize) -> Weight {
    Weight::vector("norm", &(0..len).map(|_| 1.0 + 0.5 * random.uniform()).collect::<Vec<_>>())
}

/// A bias.
pub fn bias(random: &mut Random, len: usize) -> Weight {
    Weight::vector("bias", &random.values(len, 0.5))
}

/// One block of values up to `magnitude`, or, in a format that is only read, of
/// random bits that are about as large.
fn block(random: &mut Random, format: Format, magnitude: f32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.block_bytes()).map(|_| random.bits() as u8).collect();
    if format.support() == Support::Full {
        let values = random.values(format.block_len(), magnitude);
        format.quantize(&values, &mut bytes).expect("a block of a format that can be written");
    } else if format == Format::MXFP4 {
        // Elements reach 6; the exponent is a power of two biased by 127.
        bytes[0] = (127.0 + (magnitude / 6.0).log2().round()) as u8;
    } else {
        // IQ4_XS: the scale, first of the block, meets 6-bit scales and elements up to 127.
        let scale = f16::from_f32(magnitude / (32.0 * 127.0));
        bytes[..2].copy_from_slice(&scale.to_le_bytes());
    }
    bytes
}

/// A cache of one layer.
pub fn one_layer(
    n_kv_heads: usize,
    [k_dim, v_dim]: [usize; 2],
    [k_format, v_format]: [KvFormat; 2],
    page_size: u32,
    window: Option<u32>,
) -> CacheConfig {
    CacheConfig {
        groups: vec![GroupConfig { n_pages: 64, page_size, window }],
        layers: vec![CacheLayerConfig { group: 0, n_kv_heads, k_dim, v_dim, k_format, v_format }],
    }
}

/// Inputs for sequences of `(rows in this step, tokens in the cache after it)`.
///
/// Sequence `i`'s pages are scattered, but the same in every call with an equal
/// cache, so that a later call continues an earlier one's sequences. Pages that
/// a window has left behind are [`NO_PAGE`]. Logits are wanted of each
/// sequence's last row.
pub fn inputs(cache: &CacheConfig, sequences: &[(u32, u32)]) -> StepInputs {
    let n_tokens: u32 = sequences.iter().map(|(n_rows, _)| n_rows).sum();
    let rows = sequences.iter().flat_map(|&(n_rows, n_context)| n_context - n_rows..n_context);
    let mut last_row = 0;
    let outputs = sequences.iter().map(|&(n_rows, _)| {
        last_row += n_rows;
        last_row - 1
    });
    StepInputs {
        tokens: TokenInputs::Ids((0..n_tokens).map(|i| i * 7 % 13).collect()),
        positions: rows.collect(),
        outputs: outputs.collect(),
        groups: cache.groups.iter().map(|group| group_inputs(group, sequences)).collect(),
        sequences: sequences.iter().map(|&(n_rows, n_context)| sequence(n_rows, n_context)).collect(),
        adapter: None,
    }
}

fn sequence(n_rows: u32, n_context: u32) -> SequenceInputs {
    let role = if n_rows == 1 { Role::Generated } else { Role::Prompt };
    SequenceInputs { n_rows, n_context, role }
}

/// The least stride from 37 on that has no divisor in common with so many pages.
fn stride(n_pages: u32) -> u32 {
    let divides = |d: u32, n: u32| n.is_multiple_of(d);
    let is_prime_to = |stride| (2..=stride).all(|d| !divides(d, stride) || !divides(d, n_pages));
    (37..).find(|&stride| is_prime_to(stride)).expect("there is a larger prime")
}

/// Pages are dealt by such a stride: none twice.
fn group_inputs(group: &GroupConfig, sequences: &[(u32, u32)]) -> GroupInputs {
    let GroupConfig { n_pages, page_size, window } = *group;
    let stride = stride(n_pages);
    let per_sequence = n_pages / sequences.len() as u32;
    let page = |i: usize, j: u32| (i as u32 * per_sequence + j) * stride % n_pages;
    let max_pages = sequences.iter().map(|(_, n_context)| n_context.div_ceil(page_size)).max().unwrap_or(0);
    assert!(max_pages <= per_sequence, "the case needs a larger cache");
    let (mut slots, mut block_tables) = (Vec::new(), Vec::new());
    for (i, &(n_rows, n_context)) in sequences.iter().enumerate() {
        let first = n_context - n_rows;
        let oldest = window.map_or(0, |window| (first + 1).saturating_sub(window));
        slots.extend((first..n_context).map(|p| page(i, p / page_size) * page_size + p % page_size));
        block_tables.extend((0..max_pages).map(|j| {
            let seen = oldest / page_size <= j && j <= (n_context - 1) / page_size;
            if seen { page(i, j) } else { NO_PAGE }
        }));
    }
    GroupInputs { slots, block_tables, max_pages: max_pages as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also where their number is a multiple of the usual stride.
    #[test]
    fn no_page_is_dealt_twice() {
        for n_pages in 1..400 {
            let cache = CacheConfig {
                layers: Vec::new(),
                groups: vec![GroupConfig { n_pages, page_size: 16, window: None }],
            };
            let mut pages = inputs(&cache, &[(1, 16 * n_pages)]).groups.remove(0).block_tables;
            pages.sort_unstable();
            assert_eq!(pages, (0..n_pages).collect::<Vec<_>>());
        }
    }
}
