//! Anthropic's API: `/v1/messages`.

mod answer;
mod content;
pub(crate) mod messages;
mod stream;
pub(crate) mod types;

use engine::FinishReason;

/// Why a reply ended, in Anthropic's words.
fn stop_reason(reason: FinishReason, stop: Option<&String>, n_calls: usize) -> &'static str {
    match (reason, stop) {
        (FinishReason::Length, _) => "max_tokens",
        (_, Some(_)) => "stop_sequence",
        _ if n_calls > 0 => "tool_use",
        _ => "end_turn",
    }
}
