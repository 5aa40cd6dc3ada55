//! Perplexity of a text, computed as llama.cpp computes it, so that the two
//! numbers can be compared.
//!
//! The text's tokens are cut into chunks of one context, each chunk run on its
//! own with its first token replaced by the beginning-of-text token, and the
//! predictions of its second half scored.

use backend::Role;

use crate::{Error, ModelRunner, Result, single};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Tokens a chunk.
    pub context: usize,
    /// Chunks to run at most; `None`: as many as the text fills.
    pub chunks: Option<usize>,
    /// What each chunk's first token is replaced by, where the vocabulary wants one.
    pub bos: Option<u32>,
    /// What the scored tokens are computed as.
    pub role: Role,
}

/// What was measured, so far or in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Perplexity {
    /// Chunks run.
    pub chunks: usize,
    /// Predictions scored.
    pub scored: usize,
    sum: f64,
    sum_of_squares: f64,
}

impl Perplexity {
    /// Mean negative log-likelihood, in nats a token.
    pub fn mean_nll(&self) -> f64 {
        self.sum / self.scored as f64
    }

    /// `exp` of the mean.
    pub fn perplexity(&self) -> f64 {
        self.mean_nll().exp()
    }

    /// Standard error of the perplexity, to first order; 0 before two predictions are scored.
    pub fn stderr(&self) -> f64 {
        let n = self.scored as f64;
        let variance = self.sum_of_squares / n - self.mean_nll().powi(2);
        if self.scored < 2 || variance <= 0.0 {
            return 0.0;
        }
        (variance / (n - 1.0)).sqrt() * self.perplexity()
    }

    fn add(&mut self, nll: f64) {
        self.scored += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }
}

/// Runs `tokens` through a model that serves nobody else and scores them;
/// `progress` sees the running figures after each chunk.
///
/// # Errors
/// [`Error::Option`] when the context is below 3, beyond the model's, or the
/// text does not fill one chunk; whatever running the model gives.
pub fn measure(
    model: &mut dyn ModelRunner,
    tokens: &[u32],
    options: &Options,
    mut progress: impl FnMut(&Perplexity),
) -> Result<Perplexity> {
    check(model, tokens, options)?;
    let mut result = Perplexity::default();
    for chunk in tokens.chunks_exact(options.context).take(options.chunks.unwrap_or(usize::MAX)) {
        let mut inputs = chunk.to_vec();
        if let Some(bos) = options.bos {
            inputs[0] = bos;
        }
        run_chunk(model, &inputs, (options.context / 2, options.role), &mut |position, logits| {
            if let Some(&next) = chunk.get(position + 1) {
                result.add(nll(logits, next));
            }
        })?;
        result.chunks += 1;
        progress(&result);
    }
    Ok(result)
}

fn check(model: &dyn ModelRunner, tokens: &[u32], options: &Options) -> Result<()> {
    let wrong = |option, problem| Err(Error::Option { option, problem });
    let (context, most) = (options.context, model.limits().max_context);
    if context < 3 || context > most as usize {
        return wrong("context", format!("is {context}, but must be from 3 to {most}"));
    }
    if tokens.len() < context || options.chunks == Some(0) {
        let problem = format!("{} tokens do not fill a chunk of {context}", tokens.len());
        return wrong("chunks", problem);
    }
    let n_vocab = model.limits().n_vocab;
    match tokens.iter().chain(&options.bos).find(|&&id| id as usize >= n_vocab) {
        Some(id) => wrong("tokens", format!("hold {id}, but the vocabulary ends at {n_vocab}")),
        None => Ok(()),
    }
}

/// Runs one chunk from position 0; `score` sees the logits of each position from `first` on.
fn run_chunk(
    model: &mut dyn ModelRunner,
    ids: &[u32],
    (first, role): (usize, Role),
    score: &mut dyn FnMut(usize, &[f32]),
) -> Result<()> {
    let limits = model.limits();
    let mut start = 0;
    while start < ids.len() {
        // Rows without logits run in as large steps as fit; a step with logits is bounded by them too.
        let (end, outputs) = if start < first {
            (first.min(start + limits.max_batch_tokens), 0)
        } else {
            let end = ids.len().min(start + limits.max_batch_tokens.min(limits.max_outputs));
            (end, end - start)
        };
        let role = if outputs > 0 { role } else { Role::Prompt };
        let rows = single::Rows { ids: &ids[start..end], start: start as u32, role };
        let batch = single::batch(model.groups(), &rows, (0..outputs as u32).collect());
        model.forward(&batch)?;
        if outputs > 0 {
            let logits = model.logits()?.chunks_exact(limits.n_vocab);
            logits.enumerate().for_each(|(row, logits)| score(start + row, logits));
        }
        start = end;
    }
    Ok(())
}

/// Negative log-likelihood of token `id`.
fn nll(logits: &[f32], id: u32) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    sum.ln() - (f64::from(logits[id as usize]) - max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_logits_are_as_uncertain_as_the_vocabulary_is_large() {
        assert!((nll(&[1.0; 8], 3) - 8f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn figures_follow_from_the_sums() {
        let mut result = Perplexity::default();
        [1.0, 3.0].into_iter().for_each(|nll| result.add(nll));
        assert_eq!(result.mean_nll(), 2.0);
        // Variance 1 over n - 1 = 1.
        assert_eq!(result.stderr(), 2f64.exp());
    }
}
