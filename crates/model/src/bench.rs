//! How fast a runner is: tokens a second of prompt and of generation, over a
//! random sequence, each at a given depth of context.

use std::time::Instant;

use backend::Role;

use crate::single::{self, Rows};
use crate::{Error, ModelRunner, Result};

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    /// Prompt tokens to process; 0 skips.
    pub prompt: usize,
    /// Tokens to generate, one a step; 0 skips.
    pub generated: usize,
    /// Tokens already in the cache before either.
    pub depth: usize,
    /// Times each is measured, after one run that is not.
    pub repetitions: usize,
}

/// Mean and sample standard deviation, in tokens a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Mean over the repetitions.
    pub mean: f64,
    /// Standard deviation; 0 for a single repetition.
    pub sd: f64,
}

/// The figures of a workload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// Prompt processing.
    pub prefill: Option<Measured>,
    /// Generation of a single sequence.
    pub decode: Option<Measured>,
}

/// Runs the workload.
///
/// # Errors
/// [`Error::Batch`] when it exceeds the runner's context; otherwise what the runner says.
pub fn measure(runner: &mut dyn ModelRunner, workload: &Workload) -> Result<Figures> {
    let needed = workload.depth + workload.prompt.max(workload.generated);
    let most = runner.limits().max_context as usize;
    if needed > most {
        return Err(Error::Batch { what: "tokens of context", found: needed, most });
    }
    let mut figures = Figures { prefill: None, decode: None };
    if workload.prompt > 0 {
        figures.prefill = Some(repeat(runner, workload, workload.prompt, prefill)?);
    }
    if workload.generated > 0 {
        figures.decode = Some(repeat(runner, workload, workload.generated, decode)?);
    }
    Ok(figures)
}

type Phase = fn(&mut dyn ModelRunner, start: usize, n: usize) -> Result<()>;

fn repeat(runner: &mut dyn ModelRunner, workload: &Workload, n: usize, phase: Phase) -> Result<Measured> {
    let mut rates = Vec::with_capacity(workload.repetitions);
    // What follows the depth overwrites itself, except that a window's pages come round.
    let windowed = runner.groups().iter().any(|group| group.window.is_some());
    for repetition in 0..=workload.repetitions {
        if workload.depth > 0 && (windowed || repetition == 0) {
            prefill(runner, 0, workload.depth)?;
        }
        let start = Instant::now();
        phase(runner, workload.depth, n)?;
        let rate = n as f64 / start.elapsed().as_secs_f64();
        if repetition > 0 {
            rates.push(rate);
        }
    }
    Ok(Measured::of(&rates))
}

fn prefill(runner: &mut dyn ModelRunner, start: usize, n: usize) -> Result<()> {
    let limits = runner.limits();
    let ids: Vec<u32> = (start..start + n).map(|position| token(position, limits.n_vocab)).collect();
    for (i, chunk) in ids.chunks(limits.max_batch_tokens).enumerate() {
        let at = start + i * limits.max_batch_tokens;
        run(runner, chunk, at, Role::Prompt)?;
    }
    Ok(())
}

fn decode(runner: &mut dyn ModelRunner, start: usize, n: usize) -> Result<()> {
    let n_vocab = runner.limits().n_vocab;
    (start..start + n)
        .try_for_each(|position| run(runner, &[token(position, n_vocab)], position, Role::Generated))
}

fn run(runner: &mut dyn ModelRunner, ids: &[u32], start: usize, role: Role) -> Result<()> {
    let rows = Rows { ids, start: start as u32, role };
    let batch = single::batch(runner.groups(), &rows, vec![ids.len() as u32 - 1]);
    runner.forward(&batch)?;
    runner.logits()?;
    Ok(())
}

/// An arbitrary token for a position: the same work each time, no two neighbours alike.
fn token(position: usize, n_vocab: usize) -> u32 {
    ((position as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32 % n_vocab as u32
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
}
