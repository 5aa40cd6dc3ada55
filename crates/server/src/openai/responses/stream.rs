//! A response as events.

use engine::{ReplyDelta, ReplyParser};
use serde_json::{Value, json};

use super::object::{Head, Item, ItemKind, Output, part, thought};
use crate::error::ApiError;
use crate::generation::Step;
use crate::reading::{Reading, malformed};
use crate::stream::{Pieces, Teller};

/// Tells one reply as items, one after another.
pub(super) struct ResponseStream {
    head: Head,
    reading: Reading,
    parser: ReplyParser,
    /// The item that is being written.
    open: Option<Item>,
    /// Those that are complete.
    items: Vec<Value>,
    output: Option<Output>,
    /// Events so far: each tells its number.
    told: u64,
}

impl ResponseStream {
    pub fn new(head: Head, reading: Reading) -> Self {
        let (parser, items) = (reading.parser(), Vec::new());
        Self { head, reading, parser, open: None, items, output: None, told: 0 }
    }

    fn tell(&mut self, kind: &str, mut event: Value, out: &mut Pieces) {
        event["type"] = kind.into();
        event["sequence_number"] = self.told.into();
        self.told += 1;
        out.push_named(kind, &event);
    }

    /// An event about the item that is being written.
    fn tell_of_item(&mut self, item: &Item, kind: &str, field: &str, value: Value, out: &mut Pieces) {
        let mut event = json!({"item_id": item.id, "output_index": self.items.len()});
        if !matches!(item.kind, ItemKind::Call { .. }) {
            event["content_index"] = 0.into();
        }
        if kind.starts_with("response.output_text.") {
            event["logprobs"] = json!([]);
        }
        event[field] = value;
        self.tell(kind, event, out);
    }

    /// Begins an item, after ending the one before it.
    fn begin_item(&mut self, kind: ItemKind, out: &mut Pieces) -> Item {
        self.end_item("completed", out);
        let item = Item::new(kind);
        let added = json!({"output_index": self.items.len(), "item": item.object("in_progress")});
        self.tell("response.output_item.added", added, out);
        if item.kind == ItemKind::Message {
            self.tell_of_item(&item, "response.content_part.added", "part", part(""), out);
        } else if item.kind == ItemKind::Reasoning {
            self.tell_of_item(&item, "response.content_part.added", "part", thought(""), out);
        }
        item
    }

    /// Adds text to an item, of that kind.
    fn add(&mut self, kind: ItemKind, event: &str, text: &str, out: &mut Pieces) {
        let mut item = match self.open.take() {
            Some(item) if item.kind == kind => item,
            other => {
                self.open = other;
                self.begin_item(kind, out)
            }
        };
        item.text.push_str(text);
        self.tell_of_item(&item, event, "delta", text.into(), out);
        self.open = Some(item);
    }

    fn end_item(&mut self, status: &str, out: &mut Pieces) {
        let Some(item) = self.open.take() else { return };
        let text = Value::from(item.text.as_str());
        match &item.kind {
            ItemKind::Message => {
                self.tell_of_item(&item, "response.output_text.done", "text", text, out);
                self.tell_of_item(&item, "response.content_part.done", "part", part(&item.text), out);
            }
            ItemKind::Reasoning => {
                self.tell_of_item(&item, "response.reasoning_text.done", "text", text, out);
                self.tell_of_item(&item, "response.content_part.done", "part", thought(&item.text), out);
            }
            ItemKind::Call { .. } => {
                self.tell_of_item(&item, "response.function_call_arguments.done", "arguments", text, out);
            }
        }
        let object = item.object(status);
        let done = json!({"output_index": self.items.len(), "item": object});
        self.tell("response.output_item.done", done, out);
        self.items.push(object);
    }

    fn deltas(&mut self, deltas: Vec<ReplyDelta>, out: &mut Pieces) {
        for delta in deltas {
            match delta {
                ReplyDelta::Content(text) => {
                    self.add(ItemKind::Message, "response.output_text.delta", &text, out);
                }
                ReplyDelta::Reasoning(text) => {
                    self.add(ItemKind::Reasoning, "response.reasoning_text.delta", &text, out);
                }
                ReplyDelta::ToolCallStart { name, .. } => {
                    let call_id = self.reading.call_id("call");
                    self.open = Some(self.begin_item(ItemKind::Call { call_id, name }, out));
                }
                ReplyDelta::ToolCallArguments { json_fragment, .. } => {
                    let Some(kind) = self.open.as_ref().map(|item| item.kind.clone()) else { continue };
                    self.add(kind, "response.function_call_arguments.delta", &json_fragment, out);
                }
                ReplyDelta::Malformed { reason } => {
                    malformed(reason);
                }
            }
        }
    }
}

impl Teller for ResponseStream {
    fn begin(&mut self, out: &mut Pieces) {
        for kind in ["response.created", "response.in_progress"] {
            self.tell(kind, json!({"response": self.head.begun()}), out);
        }
    }

    fn step(&mut self, _i: usize, step: Step, out: &mut Pieces) {
        match step {
            Step::Token { text, .. } => {
                let deltas = self.parser.push(&text);
                self.deltas(deltas, out);
            }
            Step::Finished { text, reason, stats, .. } => {
                let mut deltas = self.parser.push(&text);
                deltas.extend(self.parser.finish());
                self.deltas(deltas, out);
                self.output = Some(Output { items: Vec::new(), reason, stats });
            }
        }
    }

    fn end(&mut self, out: &mut Pieces) {
        let Some(mut output) = self.output.take() else { return };
        if self.items.is_empty() && self.open.is_none() {
            // A reply without a word is a message all the same.
            self.open = Some(self.begin_item(ItemKind::Message, out));
        }
        self.end_item(output.status(), out);
        output.items = std::mem::take(&mut self.items);
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
