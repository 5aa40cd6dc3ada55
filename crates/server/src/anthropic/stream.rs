//! A reply as Anthropic's events.

use serde_json::json;

use super::stop_reason;
use super::types::{MessageAnswer, MessageUsage, TextBlock};
use crate::error::{ApiError, Dialect};
use crate::generation::Step;
use crate::stream::{Pieces, Teller};

/// Tells one reply, which is one block of text.
pub(super) struct MessageStream {
    answer: MessageAnswer,
}

impl MessageStream {
    pub fn new(answer: MessageAnswer) -> Self {
        Self { answer }
    }

    fn text(text: &str, out: &mut Pieces) {
        if !text.is_empty() {
            let delta = json!({"type": "text_delta", "text": text});
            let event = json!({"type": "content_block_delta", "index": 0, "delta": delta});
            out.push_named("content_block_delta", &event);
        }
    }
}

impl Teller for MessageStream {
    fn begin(&mut self, out: &mut Pieces) {
        out.push_named("message_start", &json!({"type": "message_start", "message": self.answer}));
        let block = TextBlock::new(String::new());
        let start = json!({"type": "content_block_start", "index": 0, "content_block": block});
        out.push_named("content_block_start", &start);
    }

    fn step(&mut self, _i: usize, step: Step, out: &mut Pieces) {
        match step {
            Step::Token { text, .. } => Self::text(&text, out),
            Step::Finished { text, reason, stop, stats } => {
                Self::text(&text, out);
                self.answer.usage = MessageUsage::from(&stats);
                self.answer.stop_reason = Some(stop_reason(reason, stop.as_ref()));
                self.answer.stop_sequence = stop;
            }
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        out.push_named("content_block_stop", &json!({"type": "content_block_stop", "index": 0}));
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
