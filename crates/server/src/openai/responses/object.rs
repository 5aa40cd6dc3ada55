//! The object that a response is.

use engine::{FinishReason, Stats};
use serde_json::{Value, json};

use super::types::ResponseFields;
use crate::error::ApiError;
use crate::ids;
use crate::sampling::SamplingFields;

/// What is known before the reply.
pub(super) struct Head {
    id: String,
    /// Of the one item of the output.
    pub item: String,
    created: u64,
    pub model: String,
    /// What the request said, which the response repeats.
    repeated: Value,
}

/// A complete reply.
pub(super) struct Output {
    pub text: String,
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
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": {"effort": effort, "summary": null},
            "store": false,
            "temperature": sampling.temperature,
            "text": {"format": format.unwrap_or_else(|| json!({"type": "text"}))},
            "tool_choice": "auto",
            "tools": [],
            "top_p": sampling.top_p,
            "truncation": "disabled",
        });
        Self {
            id: ids::unique("resp"),
            item: ids::unique("msg"),
            created: ids::now(),
            model: String::new(),
            repeated,
        }
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
        let Output { text, stats, .. } = output;
        let usage = json!({
            "input_tokens": stats.prompt_tokens,
            "input_tokens_details": {"cached_tokens": stats.cached_tokens},
            "output_tokens": stats.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
        });
        let details = (output.status() == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        let item = self.message(output.status(), &[part(text)]);
        let more = json!({"output": [item], "usage": usage, "incomplete_details": details});
        self.object(output.status(), more)
    }

    /// Instead of it.
    pub fn failed(&self, error: &ApiError) -> Value {
        let code = error.code.unwrap_or("server_error");
        self.object("failed", json!({"error": {"code": code, "message": error.message}}))
    }

    /// The one item of the output.
    pub fn message(&self, status: &str, content: &[Value]) -> Value {
        json!({"id": self.item, "type": "message", "status": status, "role": "assistant", "content": content})
    }
}

impl Output {
    /// `incomplete` when there was no room for more.
    pub fn status(&self) -> &'static str {
        if self.reason == FinishReason::Length { "incomplete" } else { "completed" }
    }
}

/// A part of text.
pub(super) fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}
