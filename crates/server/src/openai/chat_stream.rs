//! A chat's answer, piece by piece.

use engine::{ReplyDelta, ReplyParser};
use serde::Serialize;

use super::FINGERPRINT;
use super::answer::{Head, Tokens, reason_of};
use super::logprobs::{ChatLogprobs, TokenEntry};
use super::usage::{Timings, Usage};
use crate::error::{ApiError, Dialect};
use crate::generation::{Running, Step};
use crate::reading::{Reading, malformed};
use crate::stream::{Pieces, Teller};

/// What a stream holds besides the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub include_usage: bool,
    pub logprobs: bool,
}

/// Tells replies as chunks.
pub(super) struct ChatStream {
    head: Head,
    tokens: Tokens,
    usage: Usage,
    /// Of the only reply, once it is complete.
    timings: Option<Timings>,
    shown: Shown,
    reading: Reading,
    /// One a reply.
    parsers: Vec<ReplyParser>,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: &'a [ChunkChoice],
    /// Null in every piece but the last, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<&'a Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    /// Null where a reply begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<[String; 1]>,
}

/// The beginning of a call, or more of its arguments.
#[derive(Serialize)]
struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl Delta {
    fn new(delta: ReplyDelta, reading: &Reading) -> Self {
        let none = Self::default();
        match delta {
            ReplyDelta::Content(text) => Self { content: Some(Some(text)), ..none },
            ReplyDelta::Reasoning(text) => Self { reasoning_content: Some(text), ..none },
            ReplyDelta::ToolCallStart { index, name } => {
                let function = FunctionDelta { name: Some(name), arguments: String::new() };
                let id = Some(reading.call_id("call"));
                Self { tool_calls: Some([CallDelta { index, id, kind: Some("function"), function }]), ..none }
            }
            ReplyDelta::ToolCallArguments { index, json_fragment } => {
                let function = FunctionDelta { name: None, arguments: json_fragment };
                Self { tool_calls: Some([CallDelta { index, id: None, kind: None, function }]), ..none }
            }
            ReplyDelta::Malformed { reason } => Self { warnings: Some([malformed(reason)]), ..none },
        }
    }
}

impl ChatStream {
    pub fn new(running: &Running, head: Head, tokens: Tokens, shown: Shown) -> Self {
        let reading = running.reading;
        let parsers = (0..running.n_replies).map(|_| reading.parser()).collect();
        Self {
            head,
            tokens,
            usage: Usage::of_prompts(&running.prompts),
            timings: None,
            shown,
            reading,
            parsers,
        }
    }

    fn chunk(&self, choice: Option<ChunkChoice>, timings: Option<Timings>, out: &mut Pieces) {
        let is_usage = choice.is_none();
        out.push(&Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            system_fingerprint: FINGERPRINT,
            choices: choice.as_slice(),
            usage: self.shown.include_usage.then(|| is_usage.then_some(&self.usage)),
            timings,
        });
    }

    fn delta(&self, index: usize, delta: Delta, entry: Option<TokenEntry>, out: &mut Pieces) {
        let entries = entry.into_iter().collect();
        let logprobs = self.shown.logprobs.then_some(ChatLogprobs { content: entries, refusal: None });
        self.chunk(Some(ChunkChoice { index, delta, logprobs, finish_reason: None }), None, out);
    }

    /// Tells what became certain; the token's entry goes with the first of it.
    fn deltas(&self, i: usize, deltas: Vec<ReplyDelta>, mut entry: Option<TokenEntry>, out: &mut Pieces) {
        for delta in deltas {
            self.delta(i, Delta::new(delta, &self.reading), entry.take(), out);
        }
        if entry.is_some() {
            let nothing = Delta { content: Some(Some(String::new())), ..Delta::default() };
            self.delta(i, nothing, entry, out);
        }
    }
}

impl Teller for ChatStream {
    fn begin(&mut self, out: &mut Pieces) {
        for index in 0..self.parsers.len() {
            let delta = Delta { role: Some("assistant"), content: Some(None), ..Delta::default() };
            let choice = ChunkChoice { index, delta, logprobs: None, finish_reason: None };
            self.chunk(Some(choice), None, out);
        }
    }

    fn step(&mut self, index: usize, step: Step, out: &mut Pieces) {
        match step {
            Step::Token { id, text, logprob } => {
                let entry = self.tokens.entry(id, logprob.as_ref());
                let deltas = self.parsers[index].push(&text);
                self.deltas(index, deltas, entry, out);
            }
            Step::Finished { text, reason, stats, .. } => {
                let parser = &mut self.parsers[index];
                let mut deltas = parser.push(&text);
                deltas.extend(parser.finish());
                let n_calls = parser.n_calls();
                self.deltas(index, deltas, None, out);
                self.usage.add(&stats, index == 0);
                let finish_reason = Some(reason_of(reason, n_calls));
                let choice = ChunkChoice { index, delta: Delta::default(), logprobs: None, finish_reason };
                let timings = Timings::from(&stats);
                self.timings = (self.parsers.len() == 1).then_some(timings);
                self.chunk(Some(choice), Some(timings), out);
            }
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        if self.shown.include_usage {
            self.chunk(None, self.timings, out);
        }
        out.push_text("[DONE]");
    }

    fn fail(&mut self, error: &ApiError, out: &mut Pieces) {
        out.push(&error.body(Dialect::OpenAi));
        out.push_text("[DONE]");
    }

    fn ping(&self, out: &mut Pieces) {
        out.comment();
    }
}
