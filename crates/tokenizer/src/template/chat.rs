//! A conversation, as templates see it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::time::DateTime;

/// Everything a template can see.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatInput {
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// What the model may call, as OpenAI's API describes tools; `None` and an
    /// empty list are not the same to every template.
    pub tools: Option<Vec<Value>>,
    /// Whether the text ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// For models that can: think before the answer, or not. `None` leaves the
    /// choice to the template.
    pub enable_thinking: Option<bool>,
    /// The time that the template's `strftime_now` tells; without one the
    /// function does not exist.
    pub now: Option<DateTime>,
    /// Any other variables by name; one that is also named above wins over it.
    pub extra: Map<String, Value>,
}

/// One turn.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what the template knows.
    pub role: String,
    /// What was said. `Some(None)` is an explicit null, which some templates
    /// tell apart from an absent key.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nullable")]
    pub content: Option<Option<Content>>,
    /// What the model thought before it spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What the model asked to call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<Value>>,
    /// Which call a `tool` message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The speaker, or the tool that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Any other keys.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A turn of plain text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Some(Content::Text(text.into()))), ..Self::default() }
    }
}

/// What was said: text, or parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts such as `{"type": "text", "text": …}`.
    Parts(Vec<Value>),
}

/// Tells an absent key (`None`) from a null (`Some(None)`).
mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer, T: Serialize>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}
