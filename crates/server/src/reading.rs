//! Replies taken apart: content, reasoning, calls of tools.

use engine::{ReplyDelta, ReplyFormat, ReplyParser, ToolFormat};

use crate::ids;

/// How the replies to a request are taken apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// How the model writes.
    pub format: ReplyFormat,
    /// Calls are looked for.
    pub with_tools: bool,
    /// The prompt ends within reasoning.
    pub in_reasoning: bool,
}

impl Reading {
    /// For one reply.
    pub fn parser(&self) -> ReplyParser {
        ReplyParser::new(&self.format, self.with_tools, self.in_reasoning)
    }

    /// All of a reply that is complete.
    pub fn parts(&self, text: &str) -> Parts {
        let (mut parser, mut parts) = (self.parser(), Parts::default());
        for delta in parser.push(text).into_iter().chain(parser.finish()) {
            parts.add(delta, self);
        }
        parts
    }

    /// A name for a call that no other has.
    pub fn call_id(&self, prefix: &str) -> String {
        match self.format.tools {
            // Mistral's templates refuse all but nine letters and digits.
            Some(ToolFormat::Mistral | ToolFormat::MistralArgs) => ids::nine(&ids::unique(prefix)),
            _ => ids::unique(prefix),
        }
    }
}

/// A complete reply, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    pub content: String,
    pub reasoning: String,
    pub calls: Vec<Call>,
    /// What is wrong with calls that are none; their text is content.
    pub malformed: Vec<String>,
}

/// A call that the model asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub id: String,
    pub name: String,
    /// A JSON object.
    pub arguments: String,
}

impl Parts {
    /// Adds what came next.
    pub fn add(&mut self, delta: ReplyDelta, reading: &Reading) {
        match delta {
            ReplyDelta::Content(text) => self.content.push_str(&text),
            ReplyDelta::Reasoning(text) => self.reasoning.push_str(&text),
            ReplyDelta::ToolCallStart { name, .. } => {
                self.calls.push(Call { id: reading.call_id("call"), name, arguments: String::new() });
            }
            ReplyDelta::ToolCallArguments { json_fragment, .. } => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments.push_str(&json_fragment);
                }
            }
            ReplyDelta::Malformed { reason } => self.malformed.push(malformed(reason)),
        }
    }
}

/// Notes a call that is none in the log and gives it back.
pub(crate) fn malformed(reason: String) -> String {
    tracing::warn!(reason, "a reply has a malformed tool call");
    reason
}
