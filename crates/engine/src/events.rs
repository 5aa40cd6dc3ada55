//! What a caller hears while its request runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flume::{Receiver, RecvTimeoutError};

use crate::{Error, Result, TokenLogprob};

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its turn.
    EndOfText,
    /// A stop text appeared.
    Stop,
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// The caller cancelled.
    Cancelled,
}

/// What a generation took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of them were found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, the end-of-text token included.
    pub generated_tokens: usize,
    /// From submission to the first step that ran this request.
    pub queued: Duration,
    /// From submission to the first generated token.
    pub time_to_first_token: Duration,
    /// From the first step that ran this request to the first generated token.
    pub prefill: Duration,
    /// From the first generated token to the last.
    pub decode: Duration,
}

impl Stats {
    /// Computed prompt tokens a second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prompt_tokens - self.cached_tokens, self.prefill)
    }

    /// Generated tokens a second after the first.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// One thing that happened to a request.
#[derive(Debug)]
pub enum Event {
    /// A token was generated; `text` is what became certain with it, often empty.
    Token {
        /// The token's id.
        id: u32,
        /// Text that can be shown: whole characters, no part of a stop text.
        text: String,
        /// How likely it was, if that was asked for.
        logprob: Option<TokenLogprob>,
    },
    /// The last event of a request that ran.
    Finished {
        /// Text that was held back until now.
        text: String,
        /// Why it ended.
        reason: FinishReason,
        /// The stop text that ended it.
        stop: Option<String>,
        /// What it took.
        stats: Stats,
    },
    /// The last event of a request that failed.
    Failed(Error),
}

/// A running request: an iterator over its events. Dropping it cancels.
#[derive(Debug)]
pub struct Generation {
    pub(crate) events: Receiver<Event>,
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Generation {
    /// Ends the request as soon as the running step is over; its last event
    /// still comes, with [`FinishReason::Cancelled`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// The next event; `None` after the last.
    pub async fn recv(&self) -> Option<Event> {
        self.events.recv_async().await.ok()
    }

    /// Waits for the next event at most `timeout`; `Ok(None)` when none came in time.
    ///
    /// # Errors
    /// [`Error::Stopped`] after the last event.
    pub fn next_within(&self, timeout: Duration) -> Result<Option<Event>> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Stopped),
        }
    }
}

impl Iterator for Generation {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.events.recv().ok()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}
