//! The object that a response is.

use engine::{FinishReason, Stats};
use serde_json::{Value, json};

use super::types::ResponseFields;
use crate::error::ApiError;
use crate::ids;
use crate::reading::{Call, Parts};
use crate::sampling::SamplingFields;

/// What is known before the reply.
pub(super) struct Head {
    id: String,
    created: u64,
    pub model: String,
    /// What the request said, which the response repeats.
    repeated: Value,
}

/// A complete reply.
pub(super) struct Output {
    /// What it consists of: reasoning, a message, calls.
    pub items: Vec<Value>,
    pub reason: FinishReason,
    pub stats: Stats,
}

impl Head {
    pub fn new(request: &ResponseFields, sampling: &SamplingFields) -> Self {
        let format = request.text.as_ref().and_then(|text| text.format.clone());
        let effort = request.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
        let repeated = json!({
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata.clone().unwrap_or_default(),
            "parallel_tool_calls": request.parallel_tool_calls.unwrap_or(true),
            "previous_response_id": null,
            "reasoning": {"effort": effort, "summary": null},
            "store": false,
            "temperature": sampling.temperature,
            "text": {"format": format.unwrap_or_else(|| json!({"type": "text"}))},
            "tool_choice": request.tool_choice.clone().unwrap_or_else(|| "auto".into()),
            "tools": request.tools.clone().unwrap_or_default(),
            "top_p": sampling.top_p,
            "truncation": "disabled",
        });
        Self { id: ids::unique("resp"), created: ids::now(), model: String::new(), repeated }
    }

    fn object(&self, status: &str, more: Value) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "model": self.model,
            "error": null,
            "incomplete_details": null,
            "output": [],
            "usage": null,
        });
        for fields in [self.repeated.clone(), more] {
            if let (Value::Object(object), Value::Object(fields)) = (&mut object, fields) {
                object.extend(fields);
            }
        }
        object
    }

    /// Before the reply.
    pub fn begun(&self) -> Value {
        self.object("in_progress", json!({}))
    }

    /// After it.
    pub fn finished(&self, output: &Output) -> Value {
        let Output { items, stats, .. } = output;
        let usage = json!({
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {"cached_tokens": stats.cached_tokens},
            "output_tokens": stats.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        });
        let details = (output.status() == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        let more = json!({"output": items, "usage": usage, "incomplete_details": details});
        self.object(output.status(), more)
    }

    /// Instead of it.
    pub fn failed(&self, error: &ApiError) -> Value {
        let code = error.code.unwrap_or("server_error");
        self.object("failed", json!({"error": {"code": code, "message": error.message}}))
    }
}

impl Output {
    /// See [`status`].
    pub fn status(&self) -> &'static str {
        status(self.reason)
    }
}

/// `incomplete` when there was no room for more.
pub(super) fn status(reason: FinishReason) -> &'static str {
    if reason == FinishReason::Length { "incomplete" } else { "completed" }
}

/// A part of text.
pub(super) fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// An item of the output that is being written or complete.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub id: String,
    pub kind: ItemKind,
    /// The text, the thoughts, or a call's arguments.
    pub text: String,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ItemKind {
    Reasoning,
    Message,
    Call { call_id: String, name: String },
}

impl Item {
    pub fn new(kind: ItemKind) -> Self {
        let prefix = match kind {
            ItemKind::Reasoning => "rs",
            ItemKind::Message => "msg",
            ItemKind::Call { .. } => "fc",
        };
        Self { id: ids::unique(prefix), kind, text: String::new() }
    }

    /// As the output holds it; what is in progress has no content yet.
    pub fn object(&self, status: &str) -> Value {
        let part = |part: Value| if status == "in_progress" { json!([]) } else { json!([part]) };
        let Self { id, kind, text } = self;
        match kind {
            ItemKind::Reasoning => {
                let content = part(thought(text));
                json!({"id": id, "type": "reasoning", "status": status, "summary": [], "content": content})
            }
            ItemKind::Message => {
                let content = part(self::part(text));
                json!({"id": id, "type": "message", "status": status, "role": "assistant", "content": content})
            }
            ItemKind::Call { call_id, name } => json!({
                "id": id, "type": "function_call", "status": status,
                "call_id": call_id, "name": name, "arguments": text,
            }),
        }
    }
}

/// The items of a complete reply.
pub(super) fn items(parts: Parts, status: &str) -> Vec<Value> {
    let Parts { content, reasoning, calls, .. } = parts;
    let with = |kind, text| Item { text, ..Item::new(kind) };
    let mut items = Vec::new();
    if !reasoning.is_empty() {
        items.push(with(ItemKind::Reasoning, reasoning));
    }
    if !content.is_empty() || calls.is_empty() {
        items.push(with(ItemKind::Message, content));
    }
    for Call { id, name, arguments } in calls {
        items.push(with(ItemKind::Call { call_id: id, name }, arguments));
    }
    items.iter().map(|item| item.object(status)).collect()
}

/// A part of thoughts.
pub(super) fn thought(text: &str) -> Value {
    json!({"type": "reasoning_text", "text": text})
}
