//! Batches of sequences whose pages nobody else uses: what benchmarks, perplexity,
//! tools and tests need where the engine's block manager would be too much.

use std::ops::Range;

use backend::{GroupInputs, NO_PAGE, Role, SequenceInputs, StepInputs, TokenInputs};

use crate::CacheGroup;

/// The next rows of one sequence.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    /// Their token ids.
    pub ids: &'a [u32],
    /// Position of the first.
    pub start: u32,
    /// How they came to be.
    pub role: Role,
}

impl Rows<'_> {
    fn positions(&self) -> Range<u32> {
        let n_rows = u32::try_from(self.ids.len()).expect("a batch has fewer than 2^32 rows");
        self.start..self.start + n_rows
    }
}

/// A batch of `rows` in which every group's pool serves this one sequence:
/// page `i` of the sequence is page `i mod n_pages` of the pool, so that a
/// window's pages come round again once the window has left them.
/// `outputs` are the rows whose logits are wanted.
///
/// A full group must have pages for the whole sequence and a window group for
/// its window and these rows, as [`crate::LoadedModel`] makes them.
pub fn batch(groups: &[CacheGroup], rows: &Rows<'_>, outputs: Vec<u32>) -> StepInputs {
    Shares { groups, n: 1 }.batch(&[(0, rows.clone())], outputs)
}

/// Pools that `n` sequences share evenly: sequence `s` has the pages from
/// `s * (n_pages / n)` on of each group, and uses them as [`batch`] does.
#[derive(Debug, Clone, Copy)]
pub struct Shares<'a> {
    /// The pools.
    pub groups: &'a [CacheGroup],
    /// Sequences, from 1 to the pages of the smallest pool.
    pub n: u32,
}

impl Shares<'_> {
    /// A batch of rows of some of the sequences, each with its number below
    /// `n`; no sequence twice. `outputs` are the rows whose logits are wanted,
    /// counted over all sequences in this order.
    ///
    /// Each share must be as large as [`batch`] says of a pool, as those of a
    /// [`crate::LoadedModel`] with `max_sequences` of `n` are.
    pub fn batch(self, sequences: &[(u32, Rows<'_>)], outputs: Vec<u32>) -> StepInputs {
        let rows = || sequences.iter().map(|(_, rows)| rows);
        let sequence = |rows: &Rows<'_>| {
            let positions = rows.positions();
            SequenceInputs {
                n_rows: positions.end - positions.start,
                n_context: positions.end,
                role: rows.role,
            }
        };
        StepInputs {
            tokens: TokenInputs::Ids(rows().flat_map(|rows| rows.ids).copied().collect()),
            positions: rows().flat_map(Rows::positions).collect(),
            sequences: rows().map(sequence).collect(),
            groups: self.groups.iter().map(|group| self.group_inputs(group, sequences)).collect(),
            outputs,
            adapter: None,
        }
    }

    fn group_inputs(self, group: &CacheGroup, sequences: &[(u32, Rows<'_>)]) -> GroupInputs {
        let (size, share) = (group.page_size, group.n_pages / self.n);
        let pages_of = |rows: &Rows<'_>| rows.positions().end.div_ceil(size);
        let max_pages = sequences.iter().map(|(_, rows)| pages_of(rows)).max().unwrap_or(0);
        let (mut slots, mut block_tables) = (Vec::new(), Vec::new());
        for (number, rows) in sequences {
            let oldest_seen = group.window.map_or(0, |window| (rows.start + 1).saturating_sub(window));
            let page = |logical: u32| {
                let is_seen = logical < pages_of(rows) && (logical + 1) * size > oldest_seen;
                if is_seen { number * share + logical % share } else { NO_PAGE }
            };
            slots.extend(rows.positions().map(|position| page(position / size) * size + position % size));
            block_tables.extend((0..max_pages).map(page));
        }
        GroupInputs { slots, block_tables, max_pages: max_pages as usize }
    }
}
