//! What the engine counts, through the `metrics` facade: whoever embeds it
//! installs a recorder, and without one nothing is kept.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::Stats;

/// Every metric's name and what it means, for who exports them.
pub const DESCRIPTIONS: [(&str, &str); 16] = [
    (TIME_TO_FIRST_TOKEN, "Seconds from a request to its first token"),
    (INTER_TOKEN, "Seconds between two tokens of a request"),
    (QUEUE, "Seconds from a request to its first step"),
    (PROMPT_TOKENS, "Tokens of prompts that have started"),
    (CACHED_TOKENS, "Tokens of prompts that the prefix cache held"),
    (PREFIX_HITS, "Requests that found the beginning of their prompt in the prefix cache"),
    (GENERATED_TOKENS, "Tokens generated"),
    (BATCH_ROWS, "Rows of a step"),
    (BATCH_SEQUENCES, "Sequences of a step"),
    (STEP, "Seconds of a step, sampling included"),
    (PAGES_HELD, "Cache pages that running requests hold"),
    (PAGES, "Cache pages there are"),
    (RUNNING, "Requests that have started"),
    (WAITING, "Requests that wait to start"),
    (PREEMPTIONS, "Requests that lost their pages and started again"),
    (CANCELS, "Requests that were cancelled"),
];

const TIME_TO_FIRST_TOKEN: &str = "quarrel_time_to_first_token_seconds";
const INTER_TOKEN: &str = "quarrel_inter_token_seconds";
const QUEUE: &str = "quarrel_queue_seconds";
const PROMPT_TOKENS: &str = "quarrel_prompt_tokens_total";
const CACHED_TOKENS: &str = "quarrel_prefix_cached_tokens_total";
const PREFIX_HITS: &str = "quarrel_prefix_hits_total";
const GENERATED_TOKENS: &str = "quarrel_generated_tokens_total";
const BATCH_ROWS: &str = "quarrel_batch_rows";
const BATCH_SEQUENCES: &str = "quarrel_batch_sequences";
const STEP: &str = "quarrel_step_seconds";
const PAGES_HELD: &str = "quarrel_kv_pages_used";
const PAGES: &str = "quarrel_kv_pages";
const RUNNING: &str = "quarrel_requests_running";
const WAITING: &str = "quarrel_requests_waiting";
const PREEMPTIONS: &str = "quarrel_preemptions_total";
const CANCELS: &str = "quarrel_cancels_total";

/// Handles on the metrics of one engine.
pub(crate) struct Metrics {
    time_to_first_token: Histogram,
    inter_token: Histogram,
    queue: Histogram,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    prefix_hits: Counter,
    generated_tokens: Counter,
    batch_rows: Histogram,
    batch_sequences: Histogram,
    step: Histogram,
    pages_held: Gauge,
    pages: Gauge,
    running: Gauge,
    waiting: Gauge,
    preemptions: Counter,
    cancels: Counter,
}

impl Metrics {
    /// Those of the engine that runs `model`.
    pub fn new(model: &str) -> Self {
        let model = [("model", model.to_owned())];
        Self {
            time_to_first_token: histogram!(TIME_TO_FIRST_TOKEN, &model),
            inter_token: histogram!(INTER_TOKEN, &model),
            queue: histogram!(QUEUE, &model),
            prompt_tokens: counter!(PROMPT_TOKENS, &model),
            cached_tokens: counter!(CACHED_TOKENS, &model),
            prefix_hits: counter!(PREFIX_HITS, &model),
            generated_tokens: counter!(GENERATED_TOKENS, &model),
            batch_rows: histogram!(BATCH_ROWS, &model),
            batch_sequences: histogram!(BATCH_SEQUENCES, &model),
            step: histogram!(STEP, &model),
            pages_held: gauge!(PAGES_HELD, &model),
            pages: gauge!(PAGES, &model),
            running: gauge!(RUNNING, &model),
            waiting: gauge!(WAITING, &model),
            preemptions: counter!(PREEMPTIONS, &model),
            cancels: counter!(CANCELS, &model),
        }
    }

    /// A request's first token, after which its times are known.
    pub fn first_token(&self, stats: &Stats) {
        self.time_to_first_token.record(stats.time_to_first_token);
        self.queue.record(stats.queued);
        self.prompt_tokens.increment(stats.prompt_tokens as u64);
        self.cached_tokens.increment(stats.cached_tokens as u64);
        self.prefix_hits.increment(u64::from(stats.cached_tokens > 0));
        self.generated_tokens.increment(1);
    }

    /// A text whose embedding is done.
    pub fn embedded(&self, stats: &Stats) {
        self.queue.record(stats.queued);
        self.prompt_tokens.increment(stats.prompt_tokens as u64);
        self.cached_tokens.increment(stats.cached_tokens as u64);
    }

    /// A token after the first.
    pub fn next_token(&self, since_last: Duration) {
        self.inter_token.record(since_last);
        self.generated_tokens.increment(1);
    }

    /// A step.
    pub fn step(&self, rows: usize, sequences: usize, took: Duration) {
        self.batch_rows.record(rows as f64);
        self.batch_sequences.record(sequences as f64);
        self.step.record(took);
    }

    /// How many pages the cache has.
    pub fn pages(&self, n: usize) {
        self.pages.set(n as f64);
    }

    /// What is there between two steps.
    pub fn state(&self, running: usize, waiting: usize, pages_held: usize) {
        self.running.set(running as f64);
        self.waiting.set(waiting as f64);
        self.pages_held.set(pages_held as f64);
    }

    pub fn preempted(&self, n: usize) {
        self.preemptions.increment(n as u64);
    }

    pub fn cancelled(&self) {
        self.cancels.increment(1);
    }
}
