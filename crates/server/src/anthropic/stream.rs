//! A reply as Anthropic's events.

use engine::{ReplyDelta, ReplyParser};
use serde_json::{Value, json};

use super::answer::{AnswerBlock, MessageAnswer, MessageUsage};
use super::stop_reason;
use crate::error::{ApiError, Dialect};
use crate::generation::Step;
use crate::reading::{Reading, malformed};
use crate::stream::{Pieces, Teller};

/// Tells one reply as blocks, one after another.
pub(super) struct MessageStream {
    answer: MessageAnswer,
    reading: Reading,
    parser: ReplyParser,
    /// The block that is open.
    open: Option<Open>,
    /// Blocks so far.
    n_blocks: usize,
}

/// What kind of block is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Thinking,
    Text,
    Call,
}

impl MessageStream {
    pub fn new(answer: MessageAnswer, reading: Reading) -> Self {
        Self { answer, reading, parser: reading.parser(), open: None, n_blocks: 0 }
    }

    /// Makes sure that a block of this kind is open.
    fn enter(&mut self, kind: Open, block: &AnswerBlock, out: &mut Pieces) {
        if self.open == Some(kind) && kind != Open::Call {
            return;
        }
        self.close(out);
        let start = json!({"type": "content_block_start", "index": self.n_blocks, "content_block": block});
        out.push_named("content_block_start", &start);
        self.open = Some(kind);
        self.n_blocks += 1;
    }

    fn close(&mut self, out: &mut Pieces) {
        let Some(kind) = self.open.take() else { return };
        if kind == Open::Thinking {
            self.delta(&json!({"type": "signature_delta", "signature": ""}), out);
        }
        let stop = json!({"type": "content_block_stop", "index": self.n_blocks - 1});
        out.push_named("content_block_stop", &stop);
    }

    /// More of the block that was begun last.
    fn delta(&self, delta: &Value, out: &mut Pieces) {
        let event = json!({"type": "content_block_delta", "index": self.n_blocks - 1, "delta": delta});
        out.push_named("content_block_delta", &event);
    }

    fn text(&mut self, text: &str, out: &mut Pieces) {
        self.enter(Open::Text, &AnswerBlock::Text { text: String::new() }, out);
        self.delta(&json!({"type": "text_delta", "text": text}), out);
    }

    fn tell(&mut self, deltas: Vec<ReplyDelta>, out: &mut Pieces) {
        for delta in deltas {
            match delta {
                ReplyDelta::Content(text) => self.text(&text, out),
                ReplyDelta::Reasoning(text) => {
                    let block = AnswerBlock::Thinking { thinking: String::new(), signature: "" };
                    self.enter(Open::Thinking, &block, out);
                    self.delta(&json!({"type": "thinking_delta", "thinking": text}), out);
                }
                ReplyDelta::ToolCallStart { name, .. } => {
                    let id = self.reading.call_id("toolu");
                    self.enter(Open::Call, &AnswerBlock::ToolUse { id, name, input: json!({}) }, out);
                }
                ReplyDelta::ToolCallArguments { json_fragment, .. } => {
                    self.delta(&json!({"type": "input_json_delta", "partial_json": json_fragment}), out);
                }
                ReplyDelta::Malformed { reason } => {
                    malformed(reason);
                }
            }
        }
    }
}

impl Teller for MessageStream {
    fn begin(&mut self, out: &mut Pieces) {
        out.push_named("message_start", &json!({"type": "message_start", "message": self.answer}));
    }

    fn step(&mut self, _i: usize, step: Step, out: &mut Pieces) {
        match step {
            Step::Token { text, .. } => {
                let deltas = self.parser.push(&text);
                self.tell(deltas, out);
            }
            Step::Finished { text, reason, stop, stats } => {
                let mut deltas = self.parser.push(&text);
                deltas.extend(self.parser.finish());
                self.tell(deltas, out);
                self.answer.usage = MessageUsage::from(&stats);
                self.answer.stop_reason = Some(stop_reason(reason, stop.as_ref(), self.parser.n_calls()));
                self.answer.stop_sequence = stop;
            }
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        if self.n_blocks == 0 {
            // Clients expect some block.
            self.enter(Open::Text, &AnswerBlock::Text { text: String::new() }, out);
        }
        self.close(out);
        let MessageAnswer { stop_reason, stop_sequence, usage, .. } = &self.answer;
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        let event = json!({"type": "message_delta", "delta": delta, "usage": usage});
        out.push_named("message_delta", &event);
        out.push_named("message_stop", &json!({"type": "message_stop"}));
    }

    fn fail(&mut self, error: &ApiError, out: &mut Pieces) {
        out.push_named("error", &error.body(Dialect::Anthropic));
    }

    fn ping(&self, out: &mut Pieces) {
        out.push_named("ping", &json!({"type": "ping"}));
    }
}
