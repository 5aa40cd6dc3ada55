//! Batches for a single sequence whose pages nobody else uses: what perplexity,
//! tools and tests need where the engine's block manager would be too much.

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

/// A batch of `rows` in which every group's pool serves this one sequence:
/// page `i` of the sequence is page `i mod n_pages` of the pool, so that a
/// window's pages come round again once the window has left them.
/// `outputs` are the rows whose logits are wanted.
///
/// A full group must have pages for the whole sequence and a window group for
/// its window and these rows, as [`crate::LoadedModel`] makes them.
pub fn batch(groups: &[CacheGroup], rows: &Rows<'_>, outputs: Vec<u32>) -> StepInputs {
    let n_rows = u32::try_from(rows.ids.len()).expect("a batch has fewer than 2^32 rows");
    let end = rows.start + n_rows;
    StepInputs {
        tokens: TokenInputs::Ids(rows.ids.to_vec()),
        positions: (rows.start..end).collect(),
        sequences: vec![SequenceInputs { n_rows, n_context: end, role: rows.role }],
        groups: groups.iter().map(|group| group_inputs(group, rows.start, end)).collect(),
        outputs,
        adapter: None,
    }
}

fn group_inputs(group: &CacheGroup, start: u32, end: u32) -> GroupInputs {
    let size = group.page_size;
    let oldest_seen = group.window.map_or(0, |window| (start + 1).saturating_sub(window));
    let page =
        |logical: u32| if (logical + 1) * size <= oldest_seen { NO_PAGE } else { logical % group.n_pages };
    let block_tables: Vec<u32> = (0..end.div_ceil(size)).map(page).collect();
    GroupInputs {
        slots: (start..end).map(|position| page(position / size) * size + position % size).collect(),
        max_pages: block_tables.len(),
        block_tables,
    }
}
