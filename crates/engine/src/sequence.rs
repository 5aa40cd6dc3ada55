//! One request while it runs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flume::{Sender, TrySendError};
use model::Role;
use tokenizer::{Decode, Detokenizer, Tokenizer};

use crate::constraint::Matcher;
use crate::metrics::Metrics;
use crate::pages::{BlockManager, SequencePages};
use crate::request::CheckedRequest;
use crate::sampling::{Sampled, SamplerState};
use crate::scheduler::{SequenceId, SequenceState};
use crate::stop::StopMatcher;
use crate::{Error, Event, FinishReason, SamplingParams, Stats};

/// A request's state between steps.
pub(crate) struct Sequence {
    pub id: SequenceId,
    pub running: bool,
    /// Prompt and generated tokens.
    pub tokens: Vec<u32>,
    pub n_prompt: usize,
    /// Tokens whose keys and values are in the cache.
    pub n_cached: usize,
    pub pages: SequencePages,
    pub sampling: SamplingParams,
    pub sampler_state: SamplerState,
    /// Follows the form that the reply must have.
    pub matcher: Option<Matcher>,
    pub logprobs: Option<usize>,
    pub priority: i32,
    /// Another reply to the same prompt, which computes it for both.
    pub follows: Option<SequenceId>,
    start_within: Option<Duration>,
    cache_salt: u64,
    max_tokens: usize,
    stop_ids: Vec<u32>,
    ignore_eos: bool,
    shown: Vec<u32>,
    detokenizer: Detokenizer<Arc<Tokenizer>>,
    stop: StopMatcher,
    events: Sender<Event>,
    cancelled: Arc<AtomicBool>,
    /// Events the caller has had no room for yet.
    unsent: VecDeque<Event>,
    times: Times,
    cached_tokens: usize,
}

/// When things happened.
struct Times {
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Sequence {
    pub fn new(
        id: SequenceId,
        checked: CheckedRequest,
        tokenizer: &Arc<Tokenizer>,
        events: Sender<Event>,
        cancelled: Arc<AtomicBool>,
        submitted: Instant,
    ) -> Self {
        let CheckedRequest { request, max_tokens } = checked;
        Self {
            id,
            running: false,
            n_prompt: request.prompt.len(),
            tokens: request.prompt,
            n_cached: 0,
            pages: SequencePages::default(),
            sampling: request.sampling,
            sampler_state: SamplerState::default(),
            matcher: None,
            logprobs: request.logprobs,
            priority: request.priority,
            follows: None,
            start_within: request.start_within,
            cache_salt: request.cache_salt,
            max_tokens,
            stop_ids: request.stop_ids,
            ignore_eos: request.ignore_eos,
            shown: request.shown,
            detokenizer: Detokenizer::new(tokenizer.clone(), Decode::default()),
            stop: StopMatcher::new(request.stop),
            events,
            cancelled,
            unsent: VecDeque::new(),
            times: Times { submitted, started: None, first_token: None, last_token: None },
            cached_tokens: 0,
        }
    }

    /// What the scheduler needs to know.
    pub fn state(&self, n_groups: usize) -> SequenceState {
        SequenceState {
            id: self.id,
            running: self.running,
            n_cached: self.n_cached,
            n_tokens: self.tokens.len(),
            chunk_end: if self.is_prefilling() { self.n_prompt } else { self.tokens.len() },
            pages: (0..n_groups).map(|g| self.pages.len(g)).collect(),
            freeable: (0..n_groups).map(|g| self.pages.freeable(g)).collect(),
        }
    }

    /// The role of the next tokens to run.
    pub fn role(&self) -> Role {
        if self.is_prefilling() { Role::Prompt } else { Role::Generated }
    }

    /// Takes what the prefix cache holds for this sequence, if it has nothing yet.
    pub fn find_prefix(&mut self, manager: &BlockManager) {
        if self.n_cached == 0 && self.pages.len(0) == 0 {
            (self.pages, self.n_cached) = manager.match_prefix(&self.tokens, self.cache_salt);
        }
    }

    /// Notes that `n_rows` more tokens are in the cache.
    pub fn advance(&mut self, n_rows: usize, manager: &BlockManager) {
        self.n_cached += n_rows;
        manager.commit(&mut self.pages, &self.tokens, self.n_cached, self.cache_salt);
    }

    /// Whether the prompt is not all in the cache.
    pub fn is_prefilling(&self) -> bool {
        self.n_cached < self.n_prompt
    }

    /// That the request has waited for longer than it was to wait, if so.
    pub fn overdue(&self) -> Option<Error> {
        let waited = self.times.submitted.elapsed();
        let is_late = self.times.started.is_none() && self.start_within.is_some_and(|most| waited > most);
        is_late.then_some(Error::Overdue { waited })
    }

    /// Gives all pages back; the sequence will be computed again from the start.
    pub fn preempt(&mut self) {
        self.pages = SequencePages::default();
        self.n_cached = 0;
        self.running = false;
    }

    /// Notes that the sequence takes part in a step.
    pub fn start(&mut self) {
        self.running = true;
        if self.times.started.is_none() {
            self.times.started = Some(Instant::now());
            self.cached_tokens = self.n_cached.min(self.n_prompt);
        }
    }

    /// Takes a sampled token: text, stop conditions, events. Returns whether the sequence is over.
    pub fn push_token(
        &mut self,
        Sampled { id, logprob }: Sampled,
        tokenizer: &Tokenizer,
        metrics: &Metrics,
    ) -> bool {
        self.tokens.push(id);
        self.note_time(metrics);
        if self.stop_ids.contains(&id) {
            self.finish(FinishReason::Stop);
            return true;
        }
        // What a grammar ends has ended.
        let may_go_on = self.ignore_eos && self.matcher.is_none();
        if !may_go_on && tokenizer.is_eog(id) {
            self.finish(FinishReason::EndOfText);
            return true;
        }
        let piece = match self.shown.contains(&id) {
            true => self.detokenizer.push_shown(id),
            false => self.detokenizer.push(id),
        };
        let (text, stop) = self.stop.push(&piece);
        self.send(Event::Token { id, text, logprob });
        if stop.is_some() {
            self.end(String::new(), FinishReason::Stop, stop);
        } else if self.matcher.as_ref().is_some_and(Matcher::is_finished) {
            self.finish(FinishReason::EndOfText);
        } else if self.n_generated() >= self.max_tokens {
            self.finish(FinishReason::Length);
        } else {
            return false;
        }
        true
    }

    /// Notes that a token came now.
    fn note_time(&mut self, metrics: &Metrics) {
        let now = Instant::now();
        match self.times.last_token.replace(now) {
            Some(last) => metrics.next_token(now - last),
            None => {
                self.times.first_token = Some(now);
                metrics.first_token(&self.stats());
            }
        }
    }

    /// Ends the sequence, showing what was held back.
    pub fn finish(&mut self, reason: FinishReason) {
        let rest = self.detokenizer.finish();
        let (mut text, stop) = self.stop.push(&rest);
        if stop.is_none() {
            text.push_str(&self.stop.finish());
        }
        self.end(text, reason, stop);
    }

    fn end(&mut self, text: String, reason: FinishReason, stop: Option<String>) {
        let stats = self.stats();
        self.send(Event::Finished { text, reason, stop, stats });
    }

    /// Queues an event behind those that still wait.
    pub fn send(&mut self, event: Event) {
        self.unsent.push_back(event);
        self.flush();
    }

    /// Sends what the caller has room for. Returns whether everything is out.
    pub fn flush(&mut self) -> bool {
        while let Some(event) = self.unsent.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.unsent.push_front(event);
                    return false;
                }
                Err(TrySendError::Disconnected(_)) => {
                    self.cancelled.store(true, Ordering::Relaxed);
                    self.unsent.clear();
                }
            }
        }
        true
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn n_generated(&self) -> usize {
        self.tokens.len() - self.n_prompt
    }

    fn stats(&self) -> Stats {
        let since = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to - from,
            _ => Duration::ZERO,
        };
        let t = &self.times;
        Stats {
            prompt_tokens: self.n_prompt,
            cached_tokens: self.cached_tokens,
            generated_tokens: self.n_generated(),
            queued: since(Some(t.submitted), t.started),
            time_to_first_token: since(Some(t.submitted), t.first_token),
            prefill: since(t.started, t.first_token),
            decode: since(t.first_token, t.last_token),
        }
    }
}
