//! Steps that are enqueued one behind the other, before the host has seen what came of them.

use super::inputs::RowOrder;
use super::{Gpu, Runtime};
use crate::{BufferId, Completed, Error, LoweredId, Result, Rows, Submission};

/// A step that was submitted, and what the host wants of it.
pub(super) struct Submitted<F> {
    fetch: F,
    /// Of each output, whether its token was chosen.
    choose: Vec<bool>,
    /// Bytes of logits.
    logits: usize,
    /// Columns and order of the rows that are wanted besides.
    rows: Option<(usize, RowOrder)>,
}

impl<R: Runtime> Gpu<R> {
    pub(super) fn submit_step(&mut self, id: LoweredId, submission: &Submission<'_>) -> Result<()> {
        let Submission { inputs, logits, choose, carried, rows } = *submission;
        let lowered = self.get(id)?;
        lowered.limits.check(inputs, &self.cache)?;
        check(submission, lowered.bucket.sequences)?;
        let (logits_at, logits_cols) = place(lowered, logits, Rows::Outputs)?;
        let rows = rows.map(|rows| place(lowered, rows, Rows::Tokens)).transpose()?;
        self.enqueue(id, inputs, carried)?;

        let arena = &self.arena.as_ref().expect("lowering reserved it").0;
        let chosen = &self.chosen.as_ref().expect("lowering reserved it").0;
        let mut parts = vec![(chosen, 0, 4 * choose.len())];
        for (i, _) in choose.iter().enumerate().filter(|(_, chosen)| !**chosen) {
            parts.push((arena, logits_at + 4 * i * logits_cols, 4 * logits_cols));
        }
        let logits = parts[1..].iter().map(|(.., bytes)| bytes).sum();
        if let Some((at, cols)) = rows {
            parts.push((arena, at, 4 * inputs.tokens.len() * cols));
        }
        let fetch = self.runtime.fetch(&parts)?;
        let rows = rows.map(|(_, cols)| (cols, self.lowered[id.0 as usize].order.clone()));
        self.submitted.push_back(Submitted { fetch, choose: choose.to_vec(), logits, rows });
        Ok(())
    }

    pub(super) fn complete_step(&mut self) -> Result<Completed> {
        let submitted = self.submitted.pop_front();
        let submitted = submitted.ok_or_else(|| Error::Step("no step was submitted".to_owned()))?;
        let bytes = self.runtime.fetched(submitted.fetch)?;
        let (tokens, bytes) = bytes.split_at(4 * submitted.choose.len());
        let (logits, rows) = bytes.split_at(submitted.logits);
        let token = |(bytes, &chosen): (&[u8], &bool)| {
            let id = u32::from_le_bytes(bytes.try_into().expect("an id has four bytes"));
            // What `choose` leaves where there is none to choose.
            Some(id).filter(|&id| chosen && id != u32::MAX)
        };
        Ok(Completed {
            tokens: tokens.chunks_exact(4).zip(&submitted.choose).map(token).collect(),
            logits: floats(logits),
            rows: match submitted.rows {
                Some((cols, order)) => order.to_host(&floats(rows), cols),
                None => Vec::new(),
            },
        })
    }
}

/// What kernels rely on.
fn check(submission: &Submission<'_>, most_carried: usize) -> Result<()> {
    let Submission { inputs, choose, carried, .. } = submission;
    if choose.len() != inputs.outputs.len() || carried.len() > most_carried {
        let problem = format!("{} choices, {} rows carried", choose.len(), carried.len());
        return Err(Error::Inputs(format!("{problem}, for {} outputs", inputs.outputs.len())));
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
