//! Anthropic's API: `/v1/messages`.

pub(crate) mod messages;
mod stream;
pub(crate) mod types;

use engine::FinishReason;

/// Why a reply ended, in Anthropic's words.
fn stop_reason(reason: FinishReason, stop: Option<&String>) -> &'static str {
    match (reason, stop) {
        (FinishReason::Length, _) => "max_tokens",
        (_, Some(_)) => "stop_sequence",
        _ => "end_turn",
    }
}
