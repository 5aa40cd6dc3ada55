//! The items of a conversation as responses have them.

use serde::Deserialize;
use serde_json::json;
use tokenizer::template::Message;
use utoipa::ToSchema;

use crate::error::{ApiError, Result};
use crate::openai::messages::Role;

/// A turn or a part of one: a message, a call, its output, or thoughts.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Item {
    /// `message`, which is also meant by nothing, `function_call`,
    /// `function_call_output` or `reasoning`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Who speaks.
    pub role: Option<Role>,
    /// What was said or thought.
    pub content: Option<ItemContent>,
    /// The name of a call.
    pub call_id: Option<String>,
    /// The function that was called.
    pub name: Option<String>,
    /// What it was called with, a JSON object as text.
    pub arguments: Option<String>,
    /// What a function returned.
    pub output: Option<ItemContent>,
}

/// What was said: text, or parts.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum ItemContent {
    Text(String),
    Parts(Vec<ItemPart>),
}

/// A part: `input_text`, or `output_text` of an earlier answer.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ItemPart {
    #[serde(rename = "type")]
    pub kind: String,
    pub text: Option<String>,
}

/// The turns that the items make: what the assistant thought, said and called
/// without anybody between is one.
pub(super) fn turns(items: Vec<Item>) -> Result<Vec<Message>> {
    let mut turns: Vec<Message> = Vec::new();
    for (i, item) in items.into_iter().enumerate() {
        let turn = item.turn(&format!("input[{i}]"))?;
        match turns.last_mut() {
            Some(last) if joins(last, &turn) => join(last, turn),
            _ => turns.push(turn),
        }
    }
    Ok(turns)
}

/// Whether both are parts of one turn of the assistant; a second message is a second turn.
fn joins(last: &Message, next: &Message) -> bool {
    let says = |message: &Message| message.content.as_ref().is_some_and(Option::is_some);
    last.role == "assistant"
        && next.role == "assistant"
        && !(says(next) && (says(last) || last.tool_calls.is_some()))
}

fn join(last: &mut Message, next: Message) {
    if let Some(Some(content)) = next.content {
        last.content = Some(Some(content));
    }
    if let Some(calls) = next.tool_calls {
        last.tool_calls.get_or_insert_default().extend(calls);
    }
    if let Some(thoughts) = next.reasoning_content {
        last.reasoning_content = Some(thoughts);
    }
}

impl Item {
    fn turn(self, param: &str) -> Result<Message> {
        let missing =
            |field: &str| ApiError::field(format!("{param}.{field}"), format!("{param}.{field} is missing"));
        let silent = || Message { content: Some(None), ..Message::new("assistant", "") };
        match self.kind.as_deref() {
            None | Some("message") => {
                let role = self.role.ok_or_else(|| missing("role"))?;
                let content = self.content.ok_or_else(|| missing("content"))?;
                Ok(Message::new(role.name(), content.text(&format!("{param}.content"))?))
            }
            Some("function_call") => {
                let call = json!({"id": self.call_id, "type": "function", "function": {
                    "name": self.name.ok_or_else(|| missing("name"))?,
                    "arguments": self.arguments.ok_or_else(|| missing("arguments"))?,
                }});
                Ok(Message { tool_calls: Some(vec![call]), ..silent() })
            }
            Some("function_call_output") => {
                let output = self.output.ok_or_else(|| missing("output"))?;
                let text = output.text(&format!("{param}.output"))?;
                let id = self.call_id.ok_or_else(|| missing("call_id"))?;
                Ok(Message { tool_call_id: Some(id), ..Message::new("tool", text) })
            }
            Some("reasoning") => {
                let content = self.content.map(|content| content.text(&format!("{param}.content")));
                Ok(Message { reasoning_content: content.transpose()?, ..silent() })
            }
            Some(_) => Err(ApiError::unsupported(param, "an item of this type")),
        }
    }
}

impl ItemContent {
    fn text(self, param: &str) -> Result<String> {
        let parts = match self {
            Self::Text(text) => return Ok(text),
            Self::Parts(parts) => parts,
        };
        let mut texts = Vec::new();
        for (i, part) in parts.into_iter().enumerate() {
            match (part.kind.as_str(), part.text) {
                ("input_text" | "output_text" | "reasoning_text" | "text", Some(text)) => texts.push(text),
                _ => return Err(ApiError::unsupported(&format!("{param}[{i}]"), "any part but text")),
            }
        }
        Ok(texts.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn of(items: Value) -> Result<Vec<Message>> {
        turns(serde_json::from_value(items).expect("items as clients send them"))
    }

    #[test]
    fn thoughts_words_and_calls_are_one_turn() {
        let call =
            |id: &str| json!({"type": "function_call", "call_id": id, "name": "time", "arguments": "{}"});
        let output = |id: &str| json!({"type": "function_call_output", "call_id": id, "output": "noon"});
        let said = json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]});
        let thought = json!({"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]});
        let turns = of(json!([
            {"role": "user", "content": "When?"}, thought, said, call("a"), call("b"), output("a"), output("b"), said
        ]));
        let turns = turns.expect("a conversation");
        let roles: Vec<&str> = turns.iter().map(|turn| turn.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "tool", "assistant"]);
        assert_eq!(turns[1].reasoning_content.as_deref(), Some("Hm."));
        assert_eq!(turns[1].tool_calls.as_ref().map(Vec::len), Some(2));
        assert_eq!(turns[3].tool_call_id.as_deref(), Some("b"));
        for refused in [
            json!([{"type": "web_search_call"}]),
            json!([{"role": "user"}]),
            json!([{"type": "function_call", "call_id": "a"}]),
            json!([{"type": "function_call_output", "output": "x"}]),
        ] {
            assert!(of(refused.clone()).is_err(), "{refused}");
        }
    }
}
