//! A chat's complete answer.

use std::sync::Arc;

use engine::{FinishReason, TokenLogprob};
use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::{ChatLogprobs, TokenEntry, chat_entry};
use super::usage::{Timings, Usage};
use super::{FINGERPRINT, finish_reason};
use crate::error::Result;
use crate::generation::{Reply, Running};
use crate::ids;
use crate::reading::{Call, Parts};
use crate::registry::Model;

/// What an answer says of itself.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub id: String,
    pub created: u64,
    pub model: String,
}

impl Head {
    pub fn new(model: &str) -> Self {
        Self { id: ids::unique("chatcmpl"), created: ids::now(), model: model.to_owned() }
    }
}

/// Turns tokens into entries of log-probabilities.
pub(super) struct Tokens {
    pub model: Arc<Model>,
    pub ignore_eos: bool,
}

impl Tokens {
    /// The entry of a token; the one that ends the text is no part of the reply.
    pub fn entry(&self, id: u32, logprob: Option<&TokenLogprob>) -> Option<TokenEntry> {
        let tokenizer = &self.model.tokenizer;
        let hidden = !self.ignore_eos && tokenizer.is_eog(id);
        logprob.filter(|_| !hidden).map(|logprob| chat_entry(tokenizer, id, logprob))
    }
}

/// A complete answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatCompletion {
    id: String,
    /// `chat.completion`
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    choices: Vec<Choice>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

/// One reply.
#[derive(Debug, Serialize, ToSchema)]
struct Choice {
    index: usize,
    message: Answer,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

/// What the model says.
#[derive(Debug, Serialize, ToSchema)]
struct Answer {
    role: &'static str,
    /// Null when it only calls tools.
    content: Option<String>,
    /// What it thought before it spoke.
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    /// What it asks to call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<CallAnswer>,
    refusal: Option<String>,
    /// What is wrong with calls that could not be read; their text is in the content.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A call.
#[derive(Debug, Serialize, ToSchema)]
struct CallAnswer {
    id: String,
    /// `function`
    #[serde(rename = "type")]
    kind: &'static str,
    function: FunctionAnswer,
}

/// The function that is called, and with what.
#[derive(Debug, Serialize, ToSchema)]
struct FunctionAnswer {
    name: String,
    /// A JSON object, as text.
    arguments: String,
}

impl From<Parts> for Answer {
    fn from(parts: Parts) -> Self {
        let Parts { content, reasoning, calls, malformed } = parts;
        Self {
            role: "assistant",
            content: (!content.is_empty() || calls.is_empty()).then_some(content),
            reasoning_content: (!reasoning.is_empty()).then_some(reasoning),
            tool_calls: calls.into_iter().map(CallAnswer::from).collect(),
            refusal: None,
            warnings: malformed,
        }
    }
}

impl From<Call> for CallAnswer {
    fn from(call: Call) -> Self {
        let Call { id, name, arguments } = call;
        Self { id, kind: "function", function: FunctionAnswer { name, arguments } }
    }
}

/// Why a reply with so many calls ended.
pub(super) fn reason_of(reason: FinishReason, n_calls: usize) -> &'static str {
    match reason {
        FinishReason::EndOfText | FinishReason::Stop if n_calls > 0 => "tool_calls",
        reason => finish_reason(reason),
    }
}

/// The whole answer, once it is complete.
///
/// # Errors
/// As [`Running::collect`].
pub(super) async fn whole(
    running: &mut Running,
    head: Head,
    tokens: &Tokens,
    logprobs: bool,
) -> Result<ChatCompletion> {
    let replies = running.collect().await?;
    let mut usage = Usage::of_prompts(&running.prompts);
    let timings = (replies.len() == 1).then(|| Timings::from(&replies[0].stats));
    let mut choices = Vec::new();
    for (index, reply) in replies.into_iter().enumerate() {
        usage.add(&reply.stats, index == 0);
        let Reply { text, tokens: ids, reason, .. } = reply;
        let entries = ids.iter().filter_map(|(id, logprob)| tokens.entry(*id, logprob.as_ref()));
        let parts = running.reading.parts(&text);
        choices.push(Choice {
            index,
            logprobs: logprobs.then(|| ChatLogprobs { content: entries.collect(), refusal: None }),
            finish_reason: reason_of(reason, parts.calls.len()),
            message: parts.into(),
        });
    }
    let Head { id, created, model } = head;
    Ok(ChatCompletion {
        id,
        object: "chat.completion",
        created,
        model,
        system_fingerprint: FINGERPRINT,
        choices,
        usage,
        timings,
    })
}
