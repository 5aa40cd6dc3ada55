//! A response as events.

use serde_json::{Value, json};

use super::object::{Head, Output, part};
use crate::error::ApiError;
use crate::generation::Step;
use crate::stream::{Pieces, Teller};

/// Tells one reply.
pub(super) struct ResponseStream {
    head: Head,
    text: String,
    output: Option<Output>,
    /// Events so far: each tells its number.
    told: u64,
}

impl ResponseStream {
    pub fn new(head: Head) -> Self {
        Self { head, text: String::new(), output: None, told: 0 }
    }

    fn tell(&mut self, kind: &str, mut event: Value, out: &mut Pieces) {
        event["type"] = kind.into();
        event["sequence_number"] = self.told.into();
        self.told += 1;
        out.push_named(kind, &event);
    }

    /// An event about the one part of the output.
    fn tell_of_part(&mut self, kind: &str, field: &str, value: Value, out: &mut Pieces) {
        let mut event = json!({"item_id": self.head.item, "output_index": 0, "content_index": 0});
        event[field] = value;
        if kind.starts_with("response.output_text.") {
            event["logprobs"] = json!([]);
        }
        self.tell(kind, event, out);
    }

    fn add(&mut self, text: &str, out: &mut Pieces) {
        if !text.is_empty() {
            self.text.push_str(text);
            self.tell_of_part("response.output_text.delta", "delta", text.into(), out);
        }
    }
}

impl Teller for ResponseStream {
    fn begin(&mut self, out: &mut Pieces) {
        for kind in ["response.created", "response.in_progress"] {
            self.tell(kind, json!({"response": self.head.begun()}), out);
        }
        let item = self.head.message("in_progress", &[]);
        self.tell("response.output_item.added", json!({"output_index": 0, "item": item}), out);
        self.tell_of_part("response.content_part.added", "part", part(""), out);
    }

    fn step(&mut self, _i: usize, step: Step, out: &mut Pieces) {
        match step {
            Step::Token { text, .. } => self.add(&text, out),
            Step::Finished { text, reason, stats, .. } => {
                self.add(&text, out);
                self.output = Some(Output { text: std::mem::take(&mut self.text), reason, stats });
            }
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        let Some(output) = self.output.take() else { return };
        self.tell_of_part("response.output_text.done", "text", output.text.as_str().into(), out);
        self.tell_of_part("response.content_part.done", "part", part(&output.text), out);
        let item = self.head.message(output.status(), &[part(&output.text)]);
        self.tell("response.output_item.done", json!({"output_index": 0, "item": item}), out);
        let kind = format!("response.{}", output.status());
        self.tell(&kind, json!({"response": self.head.finished(&output)}), out);
    }

    fn fail(&mut self, error: &ApiError, out: &mut Pieces) {
        self.tell("response.failed", json!({"response": self.head.failed(error)}), out);
    }

    fn ping(&self, out: &mut Pieces) {
        out.comment();
    }
}
