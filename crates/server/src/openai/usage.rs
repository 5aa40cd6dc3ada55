//! How many tokens an answer took, and how long.

use engine::Stats;
use serde::Serialize;
use utoipa::ToSchema;

/// The numbers of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Of the prompt.
    pub prompt_tokens: usize,
    /// Of the replies.
    pub completion_tokens: usize,
    /// Of both.
    pub total_tokens: usize,
    /// More about the prompt.
    pub prompt_tokens_details: PromptDetails,
}

/// More about the prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PromptDetails {
    /// How many of its tokens were found in the cache.
    pub cached_tokens: usize,
}

impl Usage {
    /// Of prompts that had so many tokens, before any reply.
    pub fn of_prompts(prompts: &[usize]) -> Self {
        let prompt_tokens = prompts.iter().sum();
        Self { prompt_tokens, total_tokens: prompt_tokens, ..Self::default() }
    }

    /// Adds a reply that is complete. `first` is true for the first reply to its prompt.
    pub fn add(&mut self, stats: &Stats, first: bool) {
        self.completion_tokens += stats.generated_tokens;
        self.total_tokens += stats.generated_tokens;
        if first {
            self.prompt_tokens_details.cached_tokens += stats.cached_tokens;
        }
    }
}

/// How long a reply took, as llama.cpp's server tells it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub(crate) struct Timings {
    /// Prompt tokens that were computed.
    pub prompt_n: usize,
    /// Prompt tokens that the cache held.
    pub cache_n: usize,
    /// Milliseconds from the first step to the first token.
    pub prompt_ms: f64,
    /// Prompt tokens a second.
    pub prompt_per_second: f64,
    /// Tokens generated.
    pub predicted_n: usize,
    /// Milliseconds from the first token to the last.
    pub predicted_ms: f64,
    /// Tokens a second after the first.
    pub predicted_per_second: f64,
    /// Milliseconds before the first step.
    pub queue_ms: f64,
}

impl From<&Stats> for Timings {
    fn from(stats: &Stats) -> Self {
        let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        Self {
            prompt_n: stats.prompt_tokens - stats.cached_tokens,
            cache_n: stats.cached_tokens,
            prompt_ms: ms(stats.prefill),
            prompt_per_second: stats.prefill_tokens_per_second(),
            predicted_n: stats.generated_tokens,
            predicted_ms: ms(stats.decode),
            predicted_per_second: stats.decode_tokens_per_second(),
            queue_ms: ms(stats.queued),
        }
    }
}
