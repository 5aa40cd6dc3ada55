//! Steps that are enqueued one behind the other, before the host has seen what came of them.

use super::inputs::{Asked, RowOrder};
use super::{Gpu, Runtime, choose};
use crate::{BufferId, Completed, Draw, Error, LoweredId, MAX_LIKELIEST, Result, Rows, Submission, Wanted};

/// A step that was submitted, and what the host wants of it.
pub(super) struct Submitted<F> {
    fetch: F,
    /// What of each output.
    wanted: Vec<Wanted>,
    /// Bytes of logits.
    logits: usize,
    /// Columns and order of the rows that are wanted besides.
    rows: Option<(usize, RowOrder)>,
}

impl<R: Runtime> Gpu<R> {
    pub(super) fn submit_step(&mut self, id: LoweredId, submission: &Submission<'_>) -> Result<()> {
        let Submission { inputs, logits, wanted, carried, rows } = *submission;
        let lowered = self.get(id)?;
        lowered.limits.check(inputs, &self.cache)?;
        check(submission, lowered.bucket.sequences)?;
        let (logits_at, logits_cols) = place(lowered, logits, Rows::Outputs)?;
        let rows = rows.map(|rows| place(lowered, rows, Rows::Tokens)).transpose()?;
        let pairs_at = choose::pairs_at(lowered.bucket.outputs);
        self.enqueue(id, inputs, Asked { wanted, carried })?;

        let arena = &self.arena.as_ref().expect("lowering reserved it").0;
        let chosen = &self.chosen.as_ref().expect("lowering reserved it").0;
        let mut parts = vec![(chosen, 0, 4 * wanted.len()), (chosen, pairs_at, PAIR * n_pairs(wanted))];
        let mut row = 0;
        for alike in wanted.chunk_by(|a, b| a == b) {
            if alike[0] == Wanted::Logits {
                parts.push((arena, logits_at + 4 * row * logits_cols, 4 * alike.len() * logits_cols));
            }
            row += alike.len();
        }
        let logits = parts[2..].iter().map(|(.., bytes)| bytes).sum();
        if let Some((at, cols)) = rows {
            parts.push((arena, at, 4 * inputs.tokens.len() * cols));
        }
        let fetch = self.runtime.fetch(&parts)?;
        let rows = rows.map(|(_, cols)| (cols, self.lowered[id.0 as usize].order.clone()));
        self.submitted.push_back(Submitted { fetch, wanted: wanted.to_vec(), logits, rows });
        Ok(())
    }

    pub(super) fn complete_step(&mut self) -> Result<Completed> {
        let submitted = self.submitted.pop_front();
        let submitted = submitted.ok_or_else(|| Error::Step("no step was submitted".to_owned()))?;
        let bytes = self.runtime.fetched(submitted.fetch)?;
        let (tokens, bytes) = bytes.split_at(4 * submitted.wanted.len());
        let (pairs, bytes) = bytes.split_at(PAIR * n_pairs(&submitted.wanted));
        let (logits, rows) = bytes.split_at(submitted.logits);
        let rows = match submitted.rows {
            Some((cols, order)) => order.to_host(&floats(rows), cols),
            None => Vec::new(),
        };
        // What is left where there is none.
        let token = |bytes: &[u8]| Some(word(bytes, 0)).filter(|&id| id != u32::MAX);
        let is_told = |wanted: &Wanted| matches!(wanted, Wanted::Token | Wanted::Drawn(_));
        let tokens = tokens.chunks_exact(4).zip(&submitted.wanted);
        Ok(Completed {
            tokens: tokens.map(|(bytes, wanted)| token(bytes).filter(|_| is_told(wanted))).collect(),
            likeliest: pairs.chunks_exact(PAIR).map(pair).collect(),
            logits: floats(logits),
            rows,
        })
    }
}

/// Bytes of a token and its logit.
const PAIR: usize = 8;

/// How many tokens the host gets with their logits.
fn n_pairs(wanted: &[Wanted]) -> usize {
    let given = wanted.iter().filter(|wanted| wanted.gives_likeliest());
    given.map(|wanted| wanted.n_likeliest() as usize).sum()
}

fn pair(bytes: &[u8]) -> (u32, f32) {
    (word(bytes, 0), f32::from_bits(word(bytes, 4)))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// What kernels rely on.
fn check(submission: &Submission<'_>, most_carried: usize) -> Result<()> {
    let Submission { inputs, wanted, carried, .. } = submission;
    if wanted.len() != inputs.outputs.len() || carried.len() > most_carried {
        let problem = format!("{} things wanted, {} rows carried", wanted.len(), carried.len());
        return Err(Error::Inputs(format!("{problem}, for {} outputs", inputs.outputs.len())));
    }
    let has_place = |wanted: &Wanted| match *wanted {
        Wanted::Likeliest(n) | Wanted::Drawn(Draw { top_k: n, .. }) => {
            (1..=MAX_LIKELIEST).contains(&(n as usize))
        }
        Wanted::Token | Wanted::Logits => true,
    };
    if let Some(wanted) = wanted.iter().find(|wanted| !has_place(wanted)) {
        return Err(Error::Inputs(format!("{wanted:?} is not from 1 to {MAX_LIKELIEST}")));
    }
    match carried.iter().find(|(row, _)| *row as usize >= inputs.tokens.len()) {
        None => Ok(()),
        Some((row, _)) => Err(Error::Inputs(format!("row {row} is carried, but is not there"))),
    }
}

/// Where a kept buffer lies, and its columns.
fn place<R: Runtime>(lowered: &super::Lowered<R>, id: BufferId, rows: Rows) -> Result<(usize, usize)> {
    let desc = lowered.step.desc(id)?;
    if desc.rows != rows {
        return Err(Error::Step(format!("buffer `{}` has other rows than these", desc.name)));
    }
    Ok((lowered.plan.require_kept(id)?.offset, desc.cols))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("a float has four bytes"));
    bytes.chunks_exact(4).map(float).collect()
}
