//! OpenAI's API.

mod answer;
pub(crate) mod chat;
mod chat_stream;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod responses;
pub(crate) mod tools;
pub(crate) mod usage;

use engine::FinishReason;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::fields::Ignored;

/// What computes answers: the same seed gives the same answer as long as this stays.
pub(crate) const FINGERPRINT: &str = concat!("b", env!("CARGO_PKG_VERSION"));

/// Most replies to one request.
pub(crate) const MAX_CHOICES: usize = 128;

/// What a stream should hold besides the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// A last piece with the numbers of tokens.
    pub include_usage: Option<bool>,
    /// Padding against listeners, which a local server has no use for.
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: Option<Ignored>,
}

/// Why a reply ended, in OpenAI's words.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::EndOfText | FinishReason::Stop | FinishReason::Cancelled => "stop",
        FinishReason::Length => "length",
    }
}
