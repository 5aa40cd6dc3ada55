//! From a schedule to the inputs of a step.

use model::{ForwardBatch, GroupInputs, SequenceInputs, TokenInputs};

use crate::pages::BlockManager;
use crate::sequence::{Sequence, Task};

/// Builds the step's inputs for `rows[i]` next tokens of `sequences[i]`, whose
/// pages already cover them. Every sequence that reaches its last known token
/// and goes on from there asks for logits.
pub(crate) fn build<'a>(
    rows: impl Iterator<Item = (&'a Sequence, usize)> + Clone,
    manager: &BlockManager,
) -> ForwardBatch {
    let mut ids = Vec::new();
    let mut positions = Vec::new();
    let mut sequences = Vec::new();
    let mut outputs = Vec::new();
    for (sequence, n_rows) in rows.clone() {
        let end = sequence.n_cached + n_rows;
        ids.extend_from_slice(&sequence.tokens[sequence.n_cached..end]);
        positions.extend((sequence.n_cached..end).map(|p| p as u32));
        sequences.push(SequenceInputs {
            n_rows: n_rows as u32,
            n_context: end as u32,
            role: sequence.role(),
        });
        if end == sequence.tokens.len() && matches!(sequence.task, Task::Generate(_)) {
            outputs.push(ids.len() as u32 - 1);
        }
    }
    let groups =
        (0..manager.n_groups()).map(|g| group_inputs(g, rows.clone(), manager.page_size())).collect();
    ForwardBatch { tokens: TokenInputs::Ids(ids), positions, sequences, groups, outputs, adapter: None }
}

fn group_inputs<'a>(
    group: usize,
    rows: impl Iterator<Item = (&'a Sequence, usize)> + Clone,
    page_size: usize,
) -> GroupInputs {
    let max_pages = rows.clone().map(|(s, _)| s.pages.len(group)).max().unwrap_or(0);
    let mut inputs = GroupInputs { slots: Vec::new(), block_tables: Vec::new(), max_pages };
    for (sequence, n_rows) in rows {
        let start = inputs.block_tables.len();
        inputs.block_tables.extend(sequence.pages.table(group));
        inputs.block_tables.resize(start + max_pages, model::NO_PAGE);
        let table = &inputs.block_tables[start..];
        let slot = |p: usize| table[p / page_size] * page_size as u32 + (p % page_size) as u32;
        inputs.slots.extend((sequence.n_cached..sequence.n_cached + n_rows).map(slot));
    }
    inputs
}
