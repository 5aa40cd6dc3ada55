//! One request while it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::Role;
use tokenizer::Tokenizer;

use crate::batch::{Output, Part};
use crate::embedding::Pooler;
use crate::generating::Generating;
use crate::metrics::Metrics;
use crate::pages::{BlockManager, Content, SequencePages};
use crate::sampling::Sampled;
use crate::scheduler::{SequenceId, SequenceState};
use crate::{Error, Event, FinishReason, Stats};

/// A request's state between steps.
pub(crate) struct Sequence {
    pub id: SequenceId,
    pub running: bool,
    /// Prompt and generated tokens.
    pub tokens: Vec<u32>,
    pub n_prompt: usize,
    /// Tokens whose keys and values are in the cache.
    pub n_cached: usize,
    /// Those, and the ones of steps that still run.
    pub n_submitted: usize,
    /// How often it was preempted.
    pub epoch: u32,
    /// Steps that still run for it.
    in_flight: usize,
    /// Where the token comes from that follows the known ones, if a step that still runs draws it.
    unseen: Option<Unseen>,
    pub pages: SequencePages,
    pub priority: i32,
    /// Another reply to the same prompt, which computes it for both.
    pub follows: Option<SequenceId>,
    pub task: Task,
    start_within: Option<Duration>,
    cache_salt: u64,
    cancelled: Arc<AtomicBool>,
    times: Times,
    cached_tokens: usize,
}

/// A token that the runner draws and the host has not seen.
#[derive(Debug, Clone, Copy)]
struct Unseen {
    step: u64,
    output: u32,
}

/// What the model's results are for.
pub(crate) enum Task {
    /// Tokens that follow the prompt.
    Generate(Box<Generating>),
    /// The prompt's embedding.
    Embed(Pooler),
}

/// What a sequence starts from, whatever it is for.
pub(crate) struct Start {
    pub prompt: Vec<u32>,
    pub priority: i32,
    pub start_within: Option<Duration>,
    pub cache_salt: u64,
    pub cancelled: Arc<AtomicBool>,
    pub submitted: Instant,
}

/// When things happened.
struct Times {
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

impl Sequence {
    pub fn new(id: SequenceId, start: Start, task: Task) -> Self {
        Self {
            id,
            running: false,
            n_prompt: start.prompt.len(),
            tokens: start.prompt,
            n_cached: 0,
            n_submitted: 0,
            epoch: 0,
            in_flight: 0,
            unseen: None,
            pages: SequencePages::default(),
            priority: start.priority,
            follows: None,
            task,
            start_within: start.start_within,
            cache_salt: start.cache_salt,
            cancelled: start.cancelled,
            times: Times { submitted: start.submitted, started: None, first_token: None, last_token: None },
            cached_tokens: 0,
        }
    }

    /// What the scheduler needs to know, whose steps have at most `most` rows.
    pub fn state(&self, n_groups: usize, most: usize) -> SequenceState {
        let at_prompt = self.is_at_prompt();
        let found = if self.running { self.cached_tokens } else { self.n_cached };
        SequenceState {
            id: self.id,
            running: self.running,
            n_cached: self.n_submitted,
            n_tokens: self.n_tokens(),
            is_long: at_prompt && self.n_prompt - found > most,
            chunk_end: if at_prompt { self.n_prompt } else { self.n_tokens() },
            pages: (0..n_groups).map(|g| self.pages.len(g)).collect(),
            freeable: (0..n_groups).map(|g| self.pages.freeable(g)).collect(),
        }
    }

    /// Tokens there are, the one that nobody has seen included.
    pub fn n_tokens(&self) -> usize {
        self.tokens.len() + usize::from(self.unseen.is_some())
    }

    /// The output of the step that still runs which gives the last token.
    pub fn unseen(&self) -> Option<u32> {
        self.unseen.map(|unseen| unseen.output)
    }

    /// Whether there are tokens to run that no step has: not while the host is to choose
    /// the next one, nor once the reply is as long as it may be.
    pub fn has_rows(&self) -> bool {
        let (n_tokens, is_stale) = (self.n_tokens(), !self.running && self.in_flight > 0);
        let goes_on = match &self.task {
            Task::Generate(reply) => reply.may_continue(n_tokens - self.n_prompt),
            Task::Embed(_) => true,
        };
        self.n_submitted < n_tokens && goes_on && !is_stale
    }

    /// The role of the next tokens to run.
    pub fn role(&self) -> Role {
        if self.n_submitted < self.n_prompt { Role::Prompt } else { Role::Generated }
    }

    /// Takes what the prefix cache holds for this sequence, if it has nothing yet.
    pub fn find_prefix(&mut self, manager: &BlockManager) {
        if matches!(&self.task, Task::Embed(pooler) if pooler.needs_every_row()) {
            return;
        }
        if self.n_submitted == 0 && self.in_flight == 0 && self.pages.len(0) == 0 {
            (self.pages, self.n_cached) = manager.match_prefix(Content {
                tokens: &self.tokens,
                n_prompt: self.n_prompt,
                salt: self.cache_salt,
            });
            self.n_submitted = self.n_cached;
        }
    }

    /// Notes that step `step` was submitted.
    pub fn submitted(&mut self, step: u64, part: &Part) {
        self.n_submitted += part.n_rows;
        self.in_flight += 1;
        self.unseen = match part.output {
            Some(Output::Drawn(output)) => Some(Unseen { step, output }),
            Some(Output::Sampled | Output::Likeliest(_)) | None => None,
        };
    }

    /// Notes that step `step` is over, and its rows in the cache. Returns whether they
    /// still count: not if the sequence was preempted since.
    pub fn completed(&mut self, step: u64, part: &Part, manager: &BlockManager) -> bool {
        self.in_flight -= 1;
        self.unseen = self.unseen.filter(|unseen| unseen.step != step);
        let counts = self.epoch == part.epoch;
        if counts {
            self.n_cached += part.n_rows;
            let content = Content { tokens: &self.tokens, n_prompt: self.n_prompt, salt: self.cache_salt };
            manager.commit(&mut self.pages, content, self.n_cached);
        }
        counts
    }

    /// Whether the prompt is not all in the cache.
    pub fn is_at_prompt(&self) -> bool {
        self.n_submitted < self.n_prompt
    }

    /// Whether rows of the prompt are missing in the cache.
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
        self.n_submitted = 0;
        self.unseen = None;
        self.epoch += 1;
        self.running = false;
        if let Task::Embed(pooler) = &mut self.task {
            pooler.reset();
        }
    }

    /// Notes that the sequence takes part in a step.
    pub fn start(&mut self) {
        self.running = true;
        if self.times.started.is_none() {
            self.times.started = Some(Instant::now());
            self.cached_tokens = self.n_cached.min(self.n_prompt);
        }
    }

    /// Tells the caller the last token. Returns whether the sequence is over.
    pub fn tell(&mut self, sampled: Sampled, tokenizer: &Tokenizer, metrics: &Metrics) -> bool {
        self.note_time(metrics);
        let stats = self.stats();
        match &mut self.task {
            Task::Generate(reply) => reply.push(sampled, stats, tokenizer),
            Task::Embed(_) => unreachable!("nothing is sampled of a text that is embedded"),
        }
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

    /// Takes hidden states of the next rows, `[n, n_embd]`; the last ones end the sequence.
    /// Returns whether they were.
    pub fn pool(&mut self, rows: &[f32], metrics: &Metrics) -> bool {
        let Task::Embed(pooler) = &mut self.task else { return false };
        pooler.add(rows);
        if self.n_cached < self.n_prompt {
            return false;
        }
        self.times.first_token = Some(Instant::now());
        let stats = self.stats();
        metrics.embedded(&stats);
        if let Task::Embed(pooler) = &self.task {
            pooler.finish(stats);
        }
        true
    }

    /// Tells that the request was cancelled.
    pub fn cancel(&mut self) {
        let stats = self.stats();
        match &mut self.task {
            Task::Generate(reply) => reply.finish(FinishReason::Cancelled, stats),
            // Only who no longer waits cancels, or an engine that ends, which a closed channel says.
            Task::Embed(_) => {}
        }
    }

    /// Tells that the request failed.
    pub fn fail(&mut self, error: Error) {
        match &mut self.task {
            Task::Generate(reply) => reply.send(Event::Failed(error)),
            Task::Embed(pooler) => pooler.answer(Err(error)),
        }
    }

    /// Sends what the caller has room for. Returns whether everything is out.
    pub fn flush(&mut self) -> bool {
        match &mut self.task {
            Task::Generate(reply) => reply.flush(),
            Task::Embed(_) => true,
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
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
            generated_tokens: self.tokens.len() - self.n_prompt,
            queued: since(Some(t.submitted), t.started),
            time_to_first_token: since(Some(t.submitted), t.first_token),
            prefill: since(t.started, t.first_token),
            decode: since(t.first_token, t.last_token),
        }
    }
}
