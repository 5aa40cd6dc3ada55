//! The messages of a conversation, as OpenAI has them.

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizer::template::{Content, Message};
use utoipa::ToSchema;

use crate::error::{ApiError, Result};
use crate::fields::Ignored;

/// One turn.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    /// Who speaks.
    pub role: Role,
    /// What was said; an assistant that only called tools said nothing.
    pub content: Option<MessageContent>,
    /// The speaker's name.
    pub name: Option<String>,
    /// What the assistant asked to call.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Which call a tool's message answers.
    pub tool_call_id: Option<String>,
    /// What the assistant thought before it spoke.
    #[serde(alias = "reasoning")]
    pub reasoning_content: Option<String>,
    // What an earlier answer said of malformed calls.
    #[serde(rename = "warnings")]
    _warnings: Option<Ignored>,
    // What clients send back from earlier answers, null here.
    #[serde(rename = "refusal")]
    _refusal: Option<Ignored>,
    #[serde(rename = "annotations")]
    _annotations: Option<Ignored>,
    audio: Option<Value>,
    function_call: Option<Value>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    System,
    /// OpenAI's newer word for system.
    Developer,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// As templates know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System | Self::Developer => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// What was said: text, or parts.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum MessageContent {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of what was said.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
pub(crate) struct Part {
    /// Only `text` is served.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    pub text: Option<String>,
}

/// A call that the assistant asked for.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolCall {
    /// What its answer refers to.
    pub id: Option<String>,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Which function, with what.
    pub function: FunctionCall,
    /// Its place, which clients copy from streams.
    #[serde(rename = "index")]
    _index: Option<Ignored>,
}

/// A function and what it is called with.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FunctionCall {
    /// Its name.
    pub name: String,
    /// Its arguments, a JSON object as text.
    pub arguments: String,
}

impl ChatMessage {
    /// The turn as templates see it; `i` is its place in the conversation.
    pub fn into_message(self, i: usize) -> Result<Message> {
        for (name, value) in [("audio", &self.audio), ("function_call", &self.function_call)] {
            if value.is_some() {
                return Err(ApiError::unsupported(&format!("messages[{i}].{name}"), "this"));
            }
        }
        if self.content.is_none() && self.tool_calls.is_none() && self.role != Role::Assistant {
            let param = format!("messages[{i}].content");
            return Err(ApiError::field(param.clone(), format!("{param} is missing")));
        }
        let content = self.content.map(|content| content.into_text(i)).transpose()?;
        let calls = self.tool_calls.filter(|calls| !calls.is_empty());
        let calls = calls.map(|calls| calls.into_iter().map(ToolCall::into_value).collect());
        Ok(Message {
            role: self.role.name().into(),
            content: Some(content.map(Content::Text)),
            reasoning_content: self.reasoning_content,
            tool_calls: calls,
            tool_call_id: self.tool_call_id,
            name: self.name,
            ..Message::default()
        })
    }
}

impl MessageContent {
    /// The text, parts joined by line breaks.
    fn into_text(self, i: usize) -> Result<String> {
        let parts = match self {
            Self::Text(text) => return Ok(text),
            Self::Parts(parts) => parts,
        };
        let mut texts = Vec::new();
        for (j, part) in parts.into_iter().enumerate() {
            let param = format!("messages[{i}].content[{j}]");
            match (part.kind.as_str(), part.text) {
                ("text", Some(text)) => texts.push(text),
                ("text", None) => {
                    return Err(ApiError::field(format!("{param}.text"), format!("{param}.text is missing")));
                }
                _ => return Err(ApiError::unsupported(&param, "any part but text")),
            }
        }
        Ok(texts.join("\n"))
    }
}

impl ToolCall {
    fn into_value(self) -> Value {
        let FunctionCall { name, arguments } = self.function;
        json!({"id": self.id, "type": "function", "function": {"name": name, "arguments": arguments}})
    }
}
