//! Embeddings of texts: what a caller asks for, how hidden states are pooled,
//! and how the result comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flume::{Receiver, Sender};
use model::{CacheGroup, EmbeddingShape, Pooling, RunnerLimits};

use crate::request::{check_ids, check_pages};
use crate::{Error, Result, Stats};

/// A text to be embedded.
#[derive(Debug, Clone)]
pub struct EmbeddingRequest {
    /// The text's token ids.
    pub prompt: Vec<u32>,
    /// Which hidden states make the embedding; `None`: those the model's file names.
    pub pooling: Option<Pooling>,
    /// Scale the embedding to length 1, so that dot products are cosines.
    pub normalise: bool,
    /// Requests with a larger one start earlier; among equals the first to come.
    pub priority: i32,
    /// Fail with [`Error::Overdue`] if the request has not started by then.
    pub start_within: Option<Duration>,
    /// As [`crate::Request::cache_salt`].
    pub cache_salt: u64,
}

impl EmbeddingRequest {
    /// A request for a normalised embedding, pooled as the model wants it.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self { prompt, pooling: None, normalise: true, priority: 0, start_within: None, cache_salt: 0 }
    }

    /// Checks everything that can be known beforehand.
    pub(crate) fn check(&self, limits: &RunnerLimits, groups: &[CacheGroup]) -> Result<()> {
        let (prompt, context) = (self.prompt.len(), limits.max_context as usize);
        check_ids(&self.prompt, &[], limits.n_vocab)?;
        if prompt > context {
            return Err(Error::ContextExceeded { prompt, max_tokens: 0, context });
        }
        check_pages(prompt, groups)
    }
}

/// A text's embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Its numbers, `[n_embd]`.
    pub values: Vec<f32>,
    /// What it took; the first token's time is when the embedding was there.
    pub stats: Stats,
}

/// An embedding that is being computed. Dropping it cancels.
#[derive(Debug)]
pub struct PendingEmbedding {
    result: Receiver<Result<Embedding>>,
    cancelled: Arc<AtomicBool>,
}

impl PendingEmbedding {
    /// A handle, and what it is answered through.
    pub(crate) fn new() -> (Self, Sender<Result<Embedding>>, Arc<AtomicBool>) {
        let (sender, result) = flume::bounded(1);
        let cancelled = Arc::new(AtomicBool::new(false));
        (Self { result, cancelled: cancelled.clone() }, sender, cancelled)
    }

    /// The embedding, awaited.
    ///
    /// # Errors
    /// What running the model gives; [`Error::Overdue`], [`Error::NotFinite`], [`Error::Stopped`].
    pub async fn recv(self) -> Result<Embedding> {
        self.result.recv_async().await.unwrap_or(Err(Error::Stopped))
    }

    /// As [`recv`](Self::recv), on a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub fn wait(self) -> Result<Embedding> {
        self.result.recv().unwrap_or(Err(Error::Stopped))
    }
}

impl Drop for PendingEmbedding {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

/// Pools the hidden states of a text as its chunks are computed.
///
/// Rows are added one by one in the order of their positions, in f64: how the
/// text was cut into chunks, and what ran beside it, changes no bit.
#[derive(Debug)]
pub(crate) struct Pooler {
    pooling: Pooling,
    n_embd: usize,
    normalise: bool,
    result: Sender<Result<Embedding>>,
    /// Rows added since the start of the text.
    n_rows: usize,
    /// The sum of the rows that count. `[n_embd]`
    sum: Vec<f64>,
}

impl Pooler {
    pub fn new(request: &EmbeddingRequest, shape: EmbeddingShape, result: Sender<Result<Embedding>>) -> Self {
        let (pooling, n_embd) = (request.pooling.unwrap_or(shape.pooling), shape.n_embd);
        Self { pooling, n_embd, normalise: request.normalise, result, n_rows: 0, sum: vec![0.0; n_embd] }
    }

    /// Whether every row must be computed: none may come from the prefix cache.
    pub fn needs_every_row(&self) -> bool {
        match self.pooling {
            Pooling::Last => false,
            Pooling::Mean | Pooling::First => true,
        }
    }

    /// Adds the next rows of the text, `[n, n_embd]`.
    pub fn add(&mut self, rows: &[f32]) {
        for row in rows.chunks_exact(self.n_embd) {
            let counts = match self.pooling {
                Pooling::First => self.n_rows == 0,
                Pooling::Mean => true,
                Pooling::Last => {
                    self.sum.fill(0.0);
                    true
                }
            };
            if counts {
                self.sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            self.n_rows += 1;
        }
    }

    /// Forgets all rows: the text is computed again from its start.
    pub fn reset(&mut self) {
        self.n_rows = 0;
        self.sum.fill(0.0);
    }

    /// Answers the request with what was added.
    pub fn finish(&self, stats: Stats) {
        let n = if self.pooling == Pooling::Mean { self.n_rows as f64 } else { 1.0 };
        let norm = self.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        let divisor = if self.normalise && norm > 0.0 { norm } else { n };
        let values: Vec<f32> = self.sum.iter().map(|x| (x / divisor) as f32).collect();
        let finite = values.iter().all(|x| x.is_finite());
        self.answer(if finite { Ok(Embedding { values, stats }) } else { Err(Error::NotFinite) });
    }

    /// Answers the request.
    pub fn answer(&self, result: Result<Embedding>) {
        // Whoever has gone wants no answer.
        let _ = self.result.try_send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [f32; 6] = [3.0, 4.0, 1.0, 0.0, -1.0, 2.0];

    fn pool(pooling: Pooling, normalise: bool, chunks: &[usize]) -> Result<Vec<f32>> {
        let shape = EmbeddingShape { n_embd: 2, pooling };
        let (pending, sender, _) = PendingEmbedding::new();
        let mut pooler =
            Pooler::new(&EmbeddingRequest { normalise, ..EmbeddingRequest::new(vec![]) }, shape, sender);
        pooler.add(&[9.0, 9.0]);
        pooler.reset();
        let mut rest = &ROWS[..];
        for n in chunks {
            let (rows, after) = rest.split_at(2 * n);
            pooler.add(rows);
            rest = after;
        }
        pooler.finish(Stats::default());
        pending.wait().map(|embedding| embedding.values)
    }

    #[test]
    fn pools_in_any_chunks() {
        for chunks in [&[3][..], &[1, 2], &[1, 1, 1]] {
            assert_eq!(pool(Pooling::First, false, chunks).unwrap(), [3.0, 4.0]);
            assert_eq!(pool(Pooling::First, true, chunks).unwrap(), [0.6, 0.8]);
            assert_eq!(pool(Pooling::Last, false, chunks).unwrap(), [-1.0, 2.0]);
            assert_eq!(pool(Pooling::Mean, false, chunks).unwrap(), [1.0, 2.0]);
            let unit = (1.0 / 5.0f64.sqrt()) as f32;
            assert_eq!(pool(Pooling::Mean, true, chunks).unwrap(), [unit, 2.0 * unit]);
        }
    }

    #[test]
    fn what_is_no_number_is_an_error_and_zeros_stay_zeros() {
        let shape = EmbeddingShape { n_embd: 1, pooling: Pooling::Mean };
        let of = |row| {
            let (pending, sender, _) = PendingEmbedding::new();
            let mut pooler = Pooler::new(&EmbeddingRequest::new(vec![]), shape, sender);
            pooler.add(&[row]);
            pooler.finish(Stats::default());
            pending.wait().map(|embedding| embedding.values)
        };
        assert!(matches!(of(f32::NAN), Err(Error::NotFinite)));
        assert!(matches!(of(f32::INFINITY), Err(Error::NotFinite)));
        assert_eq!(of(0.0).unwrap(), [0.0]);
        assert_eq!(of(-7.0).unwrap(), [-1.0]);
    }
}
