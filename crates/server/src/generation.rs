//! A running request: the events of its replies, one after another.

use std::pin::Pin;
use std::time::Duration;

use engine::{Event, FinishReason, Generation, Stats, TokenLogprob};
use futures_util::stream::{self, SelectAll, Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::error::{ApiError, Result};
use crate::reading::Reading;
use crate::record::Record;
use crate::registry::Lease;
use crate::state::{Admitted, Deadline};

/// How long the answer's status waits for the first token: until then a
/// failure can still be told by the status, after it only within the stream.
const STATUS_WAIT: Duration = Duration::from_secs(10);

/// One event of the reply with the given number.
#[derive(Debug)]
pub(crate) enum Step {
    /// A token.
    Token { id: u32, text: String, logprob: Option<TokenLogprob> },
    /// The end.
    Finished { text: String, reason: FinishReason, stop: Option<String>, stats: Stats },
}

/// Token ids, each with its log-probability if that was asked for.
pub(crate) type Tokens = Vec<(u32, Option<TokenLogprob>)>;

type Events = Pin<Box<dyn Stream<Item = (usize, Event)> + Send>>;

/// Replies that are being generated. Dropping it cancels them all.
pub(crate) struct Running {
    pub lease: Lease,
    /// Tokens of each prompt.
    pub prompts: Vec<usize>,
    /// How the replies are taken apart.
    pub reading: Reading,
    record: Record,
    events: SelectAll<Events>,
    first: Option<(usize, Step)>,
    /// How many replies there are.
    pub n_replies: usize,
    n_open: usize,
    deadline: Deadline,
    stopping: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

impl Running {
    pub fn new(
        admitted: Admitted,
        generations: Vec<Generation>,
        prompts: Vec<usize>,
        reading: Reading,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let n_open = generations.len();
        let events = generations.into_iter().enumerate().map(|(i, generation)| -> Events {
            Box::pin(stream::unfold(generation, move |generation| async move {
                let event = generation.recv().await?;
                Some(((i, event), generation))
            }))
        });
        Self {
            record: Record::new(prompts.iter().sum(), n_open),
            events: stream::select_all(events),
            first: None,
            n_replies: n_open,
            n_open,
            prompts,
            reading,
            lease: admitted.lease,
            deadline: admitted.deadline,
            stopping,
            _permit: admitted.permit,
        }
    }

    /// Waits a while for the first event, so that a failure still decides the status.
    pub async fn wait_for_first(&mut self) -> Result<()> {
        if let Ok(first) = tokio::time::timeout(STATUS_WAIT, self.next()).await {
            self.first = first?;
        }
        Ok(())
    }

    /// The next event and the number of its reply; `None` after the last.
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When a reply failed, the time is up, or the server stops.
    pub async fn next(&mut self) -> Result<Option<(usize, Step)>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if self.n_open == 0 {
            return Ok(None);
        }
        let next = self.receive().await;
        match &next {
            Ok(Some((i, step))) => self.record.step(*i, step),
            Ok(None) => {}
            Err(error) => self.record.failed(error),
        }
        next
    }

    async fn receive(&mut self) -> Result<Option<(usize, Step)>> {
        let event = tokio::select! {
            event = self.events.next() => event,
            () = tokio::time::sleep_until(self.deadline.at) => {
                return Err(ApiError::timed_out(self.deadline.limit));
            }
            _ = self.stopping.wait_for(|stopping| *stopping) => return Err(ApiError::stopping()),
        };
        match event {
            Some((i, Event::Token { id, text, logprob })) => Ok(Some((i, Step::Token { id, text, logprob }))),
            Some((i, Event::Finished { text, reason, stop, stats })) => {
                self.n_open -= 1;
                self.lease.pace.note(stats.prefill + stats.decode);
                if reason == FinishReason::Cancelled {
                    // Nobody here cancels a reply that is still read: the engine ends.
                    return Err(ApiError::stopping());
                }
                Ok(Some((i, Step::Finished { text, reason, stop, stats })))
            }
            Some((_, Event::Failed(error))) => Err(error.into()),
            // The engine's thread ended without a word.
            None => Err(ApiError::internal()),
        }
    }

    /// All replies, once they are complete.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn collect(&mut self) -> Result<Vec<Reply>> {
        let n = self.n_replies;
        let mut partial: Vec<(String, Tokens)> = Vec::new();
        partial.resize_with(n, Default::default);
        let mut replies: Vec<Option<Reply>> = Vec::new();
        replies.resize_with(n, || None);
        while let Some((i, step)) = self.next().await? {
            let (text, tokens) = &mut partial[i];
            match step {
                Step::Token { id, text: piece, logprob } => {
                    text.push_str(&piece);
                    tokens.push((id, logprob));
                }
                Step::Finished { text: piece, reason, stop, stats } => {
                    text.push_str(&piece);
                    let (text, tokens) = std::mem::take(&mut partial[i]);
                    replies[i] = Some(Reply { text, tokens, reason, stop, stats });
                }
            }
        }
        replies.into_iter().collect::<Option<_>>().ok_or_else(ApiError::internal)
    }
}

/// A complete reply.
#[derive(Debug)]
pub(crate) struct Reply {
    pub text: String,
    /// Every token, the one that ended the text included.
    pub tokens: Tokens,
    pub reason: FinishReason,
    /// The stop text that ended it.
    pub stop: Option<String>,
    pub stats: Stats,
}
