//! The content of a turn as Anthropic's clients send it: text, or blocks.

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizer::template::{self, Message};
use utoipa::ToSchema;

use crate::error::{ApiError, Result};
use crate::fields::Ignored;

/// What was said: text, or blocks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

/// A block of what was said.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Block {
    /// `text`, `thinking`, `tool_use` or `tool_result`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
    /// What the model thought.
    #[serde(default)]
    pub thinking: Option<String>,
    /// The name of a call.
    #[serde(default)]
    pub id: Option<String>,
    /// The tool that was called.
    #[serde(default)]
    pub name: Option<String>,
    /// What it was called with.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub input: Option<Value>,
    /// The call that a result answers.
    #[serde(default)]
    pub tool_use_id: Option<String>,
    /// A result: text, or blocks of text.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub content: Option<Value>,
    #[serde(rename = "is_error")]
    _is_error: Option<Ignored>,
    #[serde(rename = "signature")]
    _signature: Option<Ignored>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Ignored>,
    #[serde(rename = "citations")]
    _citations: Option<Ignored>,
}

impl Content {
    /// Where nothing but text may stand.
    pub fn text(self, param: &str) -> Result<String> {
        let blocks = match self {
            Self::Text(text) => return Ok(text),
            Self::Blocks(blocks) => blocks,
        };
        let mut texts = Vec::new();
        for (i, block) in blocks.into_iter().enumerate() {
            match (block.kind.as_str(), block.text) {
                ("text", Some(text)) => texts.push(text),
                _ => return Err(ApiError::unsupported(&format!("{param}[{i}]"), "any block but text")),
            }
        }
        Ok(texts.join("\n"))
    }

    /// The turns that it makes: results of tools are turns of their own, before the text.
    pub fn turns(self, role: &str, param: &str) -> Result<Vec<Message>> {
        let blocks = match self {
            Self::Text(text) => return Ok(vec![Message::new(role, text)]),
            Self::Blocks(blocks) => blocks,
        };
        let (mut turns, mut texts, mut thoughts, mut calls) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, block) in blocks.into_iter().enumerate() {
            let param = format!("{param}[{i}]");
            let missing = |field: &str| {
                ApiError::field(format!("{param}.{field}"), format!("{param}.{field} is missing"))
            };
            match (block.kind.as_str(), role) {
                ("text", _) => texts.push(block.text.ok_or_else(|| missing("text"))?),
                ("thinking", "assistant") => {
                    thoughts.push(block.thinking.ok_or_else(|| missing("thinking"))?)
                }
                // What another server has hidden cannot be shown to the model.
                ("redacted_thinking", "assistant") => {}
                ("tool_use", "assistant") => calls.push(json!({
                    "id": block.id.ok_or_else(|| missing("id"))?,
                    "type": "function",
                    "function": {
                        "name": block.name.ok_or_else(|| missing("name"))?,
                        "arguments": block.input.unwrap_or_else(|| json!({})),
                    },
                })),
                ("tool_result", "user") => {
                    let id = block.tool_use_id.ok_or_else(|| missing("tool_use_id"))?;
                    let text = result(block.content, &param)?;
                    turns.push(Message { tool_call_id: Some(id), ..Message::new("tool", text) });
                }
                _ => return Err(ApiError::unsupported(&param, "a block of this type here")),
            }
        }
        if !texts.is_empty() || turns.is_empty() {
            let text = Some(texts.join("\n")).filter(|text| !text.is_empty() || calls.is_empty());
            turns.push(Message {
                content: Some(text.map(template::Content::Text)),
                reasoning_content: (!thoughts.is_empty()).then(|| thoughts.join("\n")),
                tool_calls: (!calls.is_empty()).then_some(calls),
                ..Message::new(role, "")
            });
        }
        Ok(turns)
    }
}

/// What a tool returned.
fn result(content: Option<Value>, param: &str) -> Result<String> {
    let unsupported = || ApiError::unsupported(&format!("{param}.content"), "any result but text");
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(content) => {
            let content: Content = serde_json::from_value(content).map_err(|_| unsupported())?;
            content.text(&format!("{param}.content"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(role: &str, blocks: Value) -> Result<Vec<Message>> {
        serde_json::from_value::<Content>(blocks).expect("blocks as clients send them").turns(role, "x")
    }

    #[test]
    fn blocks_become_turns() {
        let call = json!({"type": "tool_use", "id": "t1", "name": "time", "input": {"zone": "UTC"}});
        let said =
            turns("assistant", json!([{"type": "thinking", "thinking": "Hm.", "signature": "s"}, call]));
        let said = said.expect("it is an assistant's turn").remove(0);
        assert_eq!(said.reasoning_content.as_deref(), Some("Hm."));
        assert_eq!(said.content, Some(None));
        assert_eq!(said.tool_calls.expect("a call")[0]["function"]["arguments"]["zone"], "UTC");
        let result = json!({"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "noon"}]});
        let answered =
            turns("user", json!([result, {"type": "text", "text": "Well?"}])).expect("a user's turn");
        let roles: Vec<&str> = answered.iter().map(|turn| turn.role.as_str()).collect();
        assert_eq!(roles, ["tool", "user"]);
        assert_eq!(answered[0].tool_call_id.as_deref(), Some("t1"));
        for (role, refused) in [
            ("user", json!([{"type": "image"}])),
            ("user", json!([call])),
            ("assistant", json!([result])),
            ("user", json!([{"type": "tool_result"}])),
        ] {
            assert!(turns(role, refused.clone()).is_err(), "{refused}");
        }
    }
}
