//! What is noted of a request that generates: sizes, times and how it ended, in
//! its span and in one line of the log. Never a text.

use std::time::{Duration, Instant};

use engine::FinishReason;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::error::ApiError;
use crate::generation::Step;

/// Kept while a request runs; notes what it knows when it is dropped.
#[derive(Debug)]
pub(crate) struct Record {
    span: Span,
    begun: Instant,
    prompt_tokens: usize,
    cached_tokens: usize,
    /// Of each reply.
    generated: Vec<usize>,
    open: usize,
    queued: Duration,
    first_token: Option<Duration>,
    outcome: Option<&'static str>,
}

impl Record {
    /// Of a request in the present span, for so many replies.
    pub fn new(prompt_tokens: usize, n_replies: usize) -> Self {
        Self {
            span: Span::current(),
            begun: Instant::now(),
            prompt_tokens,
            cached_tokens: 0,
            generated: vec![0; n_replies],
            open: n_replies,
            queued: Duration::ZERO,
            first_token: None,
            outcome: None,
        }
    }

    /// A step of reply `i`.
    pub fn step(&mut self, i: usize, step: &Step) {
        match step {
            Step::Token { .. } => {
                self.generated[i] += 1;
                self.first_token.get_or_insert_with(|| self.begun.elapsed());
            }
            Step::Finished { reason, stats, .. } => {
                self.generated[i] = stats.generated_tokens;
                self.cached_tokens = self.cached_tokens.max(stats.cached_tokens);
                self.queued = self.queued.max(stats.queued);
                self.open = self.open.saturating_sub(1);
                if self.open == 0 {
                    self.outcome = Some(if *reason == FinishReason::Length { "length" } else { "stop" });
                }
            }
        }
    }

    /// It failed.
    pub fn failed(&mut self, error: &ApiError) {
        self.outcome = Some(error.code.unwrap_or("error"));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let generated: usize = self.generated.iter().sum();
        let span = &self.span;
        span.record("prompt_tokens", self.prompt_tokens);
        span.record("cached_tokens", self.cached_tokens);
        span.record("generated_tokens", generated);
        // The names that OpenTelemetry's conventions have for them.
        span.set_attribute("gen_ai.usage.input_tokens", count(self.prompt_tokens));
        span.set_attribute("gen_ai.usage.output_tokens", count(generated));
        let first_token = self.first_token.map(|time| time.as_secs_f64());
        let (queued, seconds) = (self.queued.as_secs_f64(), self.begun.elapsed().as_secs_f64());
        // Its reader has left, or it never began.
        let outcome = self.outcome.unwrap_or("cancelled");
        span.in_scope(|| tracing::info!(outcome, queued, first_token, seconds, "generated"));
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
