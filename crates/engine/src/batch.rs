//! From a schedule to a step.

use model::{ForwardBatch, GroupInputs, SequenceInputs, SubmittedStep, TokenInputs, Wanted};

use crate::pages::BlockManager;
use crate::scheduler::SequenceId;
use crate::sequence::{Sequence, Task};

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub id: SequenceId,
    pub n_rows: usize,
    /// How often the sequence had been preempted.
    pub epoch: u32,
    pub output: Option<Output>,
}

/// Where the token that follows a sequence's rows comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// From the host's sampler, which needs all logits.
    Sampled,
    /// From the host's sampler, which needs so many of the likeliest tokens.
    Likeliest(u32),
    /// From the runner, as this output of the step.
    Drawn(u32),
}

/// Builds the step for `rows[i]` next tokens of `sequences[i]`, whose pages already
/// cover them. Every sequence that reaches its last token and goes on from there has
/// an output, of which the runner gives up to `max_likeliest` tokens.
pub(crate) fn build<'a>(
    rows: impl Iterator<Item = (&'a Sequence, usize)> + Clone,
    manager: &BlockManager,
    max_likeliest: usize,
) -> (SubmittedStep, Vec<Part>) {
    let mut ids = Vec::new();
    let mut positions = Vec::new();
    let mut sequences = Vec::new();
    let mut outputs = Vec::new();
    let (mut wanted, mut carried, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for (sequence, n_rows) in rows.clone() {
        let start = sequence.n_submitted;
        let end = start + n_rows;
        ids.extend_from_slice(&sequence.tokens[start..end.min(sequence.tokens.len())]);
        if let Some(output) = sequence.unseen().filter(|_| end > sequence.tokens.len()) {
            carried.push((ids.len() as u32, output));
            ids.push(0);
        }
        positions.extend((start..end).map(|p| p as u32));
        sequences.push(SequenceInputs {
            n_rows: n_rows as u32,
            n_context: end as u32,
            role: sequence.role(),
        });
        let mut output = None;
        if let Task::Generate(reply) = &sequence.task
            && end == sequence.n_tokens()
        {
            let wants = reply.wanted(end, max_likeliest);
            output = Some(match wants {
                Wanted::Token | Wanted::Drawn(_) => Output::Drawn(outputs.len() as u32),
                Wanted::Likeliest(n) => Output::Likeliest(n),
                Wanted::Logits => Output::Sampled,
            });
            outputs.push(ids.len() as u32 - 1);
            wanted.push(wants);
        }
        parts.push(Part { id: sequence.id, n_rows, epoch: sequence.epoch, output });
    }
    let groups =
        (0..manager.n_groups()).map(|g| group_inputs(g, rows.clone(), manager.page_size())).collect();
    let hidden = rows.clone().any(|(sequence, _)| matches!(sequence.task, Task::Embed(_)));
    let batch =
        ForwardBatch { tokens: TokenInputs::Ids(ids), positions, sequences, groups, outputs, adapter: None };
    (SubmittedStep { batch, hidden, wanted, carried }, parts)
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
        inputs.slots.extend((sequence.n_submitted..sequence.n_submitted + n_rows).map(slot));
    }
    inputs
}
