//! How fast a runner is: tokens a second of prompt and of generation, over
//! random sequences, each at a given depth of context.

use std::time::Instant;

use backend::{Role, Wanted};

use crate::single::{Rows, Shares};
use crate::{Error, ModelRunner, Result, RunnerLimits, SubmittedStep};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Prompt tokens to process, of each sequence; 0 skips.
    pub prompt: usize,
    /// Tokens to generate, of each sequence, one a step; 0 skips.
    pub generated: usize,
    /// Tokens already in the cache of each sequence before either.
    pub depth: usize,
    /// Sequences side by side, at least 1. With more than one, generation
    /// follows the prompts; a single sequence generates at `depth`, without.
    pub batch: usize,
    /// Times each is measured, after one run that is not.
    pub repetitions: usize,
}

impl Workload {
    /// Tokens in the cache of each sequence before it generates.
    fn generation_depth(&self) -> usize {
        if self.batch > 1 { self.depth + self.prompt } else { self.depth }
    }

    /// The longest that each sequence becomes, in tokens.
    pub fn context(&self) -> usize {
        (self.depth + self.prompt).max(self.generation_depth() + self.generated)
    }
}

/// Mean and sample standard deviation, in tokens a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Mean over the repetitions.
    pub mean: f64,
    /// Standard deviation; 0 for a single repetition.
    pub sd: f64,
}

/// The figures of a workload: tokens of all sequences together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Prompt processing, one sequence after the other.
    pub prefill: Option<Measured>,
    /// Generation, a token of every sequence each step.
    pub decode: Option<Measured>,
}

/// Runs the workload; the runner's cache needs room for `workload.batch` sequences.
///
/// # Errors
/// [`Error::Option`] for a batch of none; [`Error::Batch`] when the workload
/// exceeds the runner's context, sequences, outputs or rows; otherwise what the runner says.
pub fn measure(runner: &mut dyn ModelRunner, workload: &Workload) -> Result<Figures> {
    check(&runner.limits(), workload)?;
    let mut figures = Figures { prefill: None, decode: None };
    if workload.prompt > 0 {
        let span = Span { sequences: workload.batch, start: workload.depth, n: workload.prompt };
        figures.prefill = Some(repeat(runner, span, workload.repetitions, prefill)?);
    }
    if workload.generated > 0 {
        let start = workload.generation_depth();
        let span = Span { sequences: workload.batch, start, n: workload.generated };
        figures.decode = Some(repeat(runner, span, workload.repetitions, decode)?);
    }
    Ok(figures)
}

fn check(limits: &RunnerLimits, workload: &Workload) -> Result<()> {
    if workload.batch == 0 {
        return Err(Error::Option { option: "batch", problem: "must be at least 1".into() });
    }
    for (what, found, most) in [
        ("tokens of context", workload.context(), limits.max_context as usize),
        ("sequences", workload.batch, limits.max_sequences),
        ("outputs", workload.batch, limits.max_outputs),
        ("rows", workload.batch, limits.max_batch_tokens),
    ] {
        if found > most {
            return Err(Error::Batch { what, found, most });
        }
    }
    Ok(())
}

/// Positions `start..start + n` of each of the sequences.
#[derive(Clone, Copy)]
struct Span {
    sequences: usize,
    start: usize,
    n: usize,
}

type Phase = fn(&mut dyn ModelRunner, Span) -> Result<()>;

fn repeat(runner: &mut dyn ModelRunner, span: Span, repetitions: usize, phase: Phase) -> Result<Measured> {
    let mut rates = Vec::with_capacity(repetitions);
    // What follows the depth overwrites itself, except that a window's pages come round.
    let windowed = runner.groups().iter().any(|group| group.window.is_some());
    for repetition in 0..=repetitions {
        if span.start > 0 && (windowed || repetition == 0) {
            prefill(runner, Span { start: 0, n: span.start, ..span })?;
        }
        let start = Instant::now();
        phase(runner, span)?;
        let rate = (span.sequences * span.n) as f64 / start.elapsed().as_secs_f64();
        if repetition > 0 {
            rates.push(rate);
        }
    }
    Ok(Measured::of(&rates))
}

fn prefill(runner: &mut dyn ModelRunner, span: Span) -> Result<()> {
    let limits = runner.limits();
    for sequence in 0..span.sequences {
        let positions = span.start..span.start + span.n;
        let ids: Vec<u32> = positions.map(|position| token(sequence, position, limits.n_vocab)).collect();
        for (i, chunk) in ids.chunks(limits.max_batch_tokens).enumerate() {
            let start = (span.start + i * limits.max_batch_tokens) as u32;
            let rows = Rows { ids: chunk, start, role: Role::Prompt };
            run(runner, span.sequences, &[(sequence as u32, rows)], vec![chunk.len() as u32 - 1])?;
        }
    }
    Ok(())
}

/// A token of every sequence each step. A runner that overlaps steps chooses them itself, so
/// that a step is handed over while the one before runs.
fn decode(runner: &mut dyn ModelRunner, span: Span) -> Result<()> {
    let n_vocab = runner.limits().n_vocab;
    let outputs: Vec<u32> = (0..span.sequences as u32).collect();
    let overlaps = runner.overlaps() && runner.max_likeliest() > 0;
    for position in span.start..span.start + span.n {
        let ids: Vec<u32> = (0..span.sequences).map(|sequence| token(sequence, position, n_vocab)).collect();
        let rows = |ids| Rows { ids, start: position as u32, role: Role::Generated };
        let sequences: Vec<_> = (0..).zip(ids.chunks(1).map(rows)).collect();
        if !overlaps {
            run(runner, span.sequences, &sequences, outputs.clone())?;
            continue;
        }
        let shares = Shares { groups: runner.groups(), n: span.sequences as u32 };
        let first = position == span.start;
        let carried = outputs.iter().filter(|_| !first).map(|&i| (i, i)).collect();
        let batch = shares.batch(&sequences, outputs.clone());
        let wanted = vec![Wanted::Token; span.sequences];
        runner.submit(&SubmittedStep { batch, hidden: false, wanted, carried })?;
        if !first {
            runner.complete()?;
        }
    }
    if overlaps && span.n > 0 {
        runner.complete()?;
    }
    Ok(())
}

/// Runs rows of some of `n` sequences and reads the logits of `outputs`.
fn run(
    runner: &mut dyn ModelRunner,
    n: usize,
    sequences: &[(u32, Rows<'_>)],
    outputs: Vec<u32>,
) -> Result<()> {
    let shares = Shares { groups: runner.groups(), n: n as u32 };
    let batch = shares.batch(sequences, outputs);
    runner.forward(&batch)?;
    runner.logits()?;
    Ok(())
}

/// An arbitrary token for a position: the same work each time, no two neighbours
/// alike, and no two sequences.
fn token(sequence: usize, position: usize, n_vocab: usize) -> u32 {
    let place = (sequence as u64) << 32 | position as u64;
    (place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32 % n_vocab as u32
}

impl Measured {
    fn of(rates: &[f64]) -> Self {
        let n = rates.len() as f64;
        let mean = rates.iter().sum::<f64>() / n;
        let squares: f64 = rates.iter().map(|rate| (rate - mean).powi(2)).sum();
        Self { mean, sd: if rates.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_sample_deviation() {
        let measured = Measured::of(&[1.0, 2.0, 3.0]);
        assert_eq!((measured.mean, measured.sd), (2.0, 1.0));
        assert_eq!(Measured::of(&[5.0]), Measured { mean: 5.0, sd: 0.0 });
    }

    #[test]
    fn context_of_one_sequence_and_of_several() {
        let one = Workload { prompt: 8, generated: 4, depth: 2, batch: 1, repetitions: 1 };
        assert_eq!(one.context(), 10);
        assert_eq!(Workload { batch: 2, ..one }.context(), 14);
    }
}
