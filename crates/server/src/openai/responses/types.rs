//! What a client sends.

use engine::Request;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizer::template::Message;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::error::{ApiError, Result};
use crate::fields::{FromFields, Ignored, accept, merged, parse, take};
use crate::form::FormFields;
use crate::openai::messages::Role;
use crate::prompt;
use crate::registry::Model;
use crate::sampling::SamplingFields;

/// A conversation to be continued.
#[derive(Debug, Clone)]
pub(crate) struct ResponsesRequest {
    pub response: ResponseFields,
    pub sampling: SamplingFields,
}

/// The fields that are not about sampling.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResponseFields {
    /// A text, or the turns of a conversation.
    pub input: Input,
    /// Which model; nothing: the first that is served.
    pub model: Option<String>,
    /// Instructions that come first.
    pub instructions: Option<String>,
    /// Most tokens of the reply.
    pub max_output_tokens: Option<usize>,
    /// Send the reply piece by piece.
    pub stream: Option<bool>,
    /// The form of the reply, in `format`.
    pub text: Option<TextForm>,
    /// Whether the model thinks: an `effort` of `none` turns it off where the template can.
    pub reasoning: Option<Reasoning>,
    /// Given back as it is.
    #[schema(value_type = Option<Value>)]
    pub metadata: Option<Map<String, Value>>,
    /// Only `disabled`: what does not fit is refused.
    pub truncation: Option<String>,
    /// What the model may call; not supported.
    #[schema(value_type = Option<Vec<Value>>)]
    pub tools: Option<Vec<Value>>,
    /// Whether it must call something.
    #[schema(value_type = Option<Value>)]
    pub tool_choice: Option<Value>,
    /// Not supported: nothing is stored.
    pub previous_response_id: Option<String>,
    /// Not supported: nothing is stored.
    #[schema(value_type = Option<Value>)]
    pub conversation: Option<Value>,
    /// Not supported: answers come at once.
    pub background: Option<bool>,
}

/// The form of the reply.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TextForm {
    /// As `response_format` of chats.
    #[schema(value_type = Option<Value>)]
    pub format: Option<Value>,
}

/// Whether the model thinks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reasoning {
    /// `none` turns it off.
    pub effort: Option<String>,
    #[serde(rename = "summary")]
    _summary: Option<Ignored>,
}

/// What the model answers.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Input {
    Text(String),
    Items(Vec<Item>),
}

/// A turn; only messages are served.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Item {
    /// `message`, which is also meant by nothing.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Who speaks.
    pub role: Option<Role>,
    /// What was said.
    pub content: Option<ItemContent>,
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

/// Fields that are accepted because nothing here depends on them.
const ACCEPTED: [&str; 10] = [
    "store",
    "user",
    "include",
    "parallel_tool_calls",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "stream_options",
];

impl PartialSchema for ResponsesRequest {
    fn schema() -> RefOr<Schema> {
        merged::<ResponseFields, SamplingFields>()
    }
}

impl ToSchema for ResponsesRequest {}

impl FromFields for ResponsesRequest {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &ACCEPTED);
        let sampling = take(&mut fields)?;
        Ok(Self { response: parse(fields)?, sampling })
    }
}

impl ResponsesRequest {
    /// What the engine is asked for.
    pub fn request(&self, model: &Model) -> Result<Request> {
        let fields = &self.response;
        fields.check_unsupported()?;
        let format = fields.text.as_ref().and_then(|text| text.format.clone());
        let form = FormFields { response_format: format, ..FormFields::default() };
        let constraint =
            form.constraint().map_err(|error| ApiError { param: Some("text.format".into()), ..error })?;
        let thinking = fields.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_ref());
        let thinking = thinking.map(|effort| effort != "none");
        let prompt = prompt::conversation(model, fields.messages()?, thinking)?;
        let request = self.sampling.request(model, prompt, fields.max_output_tokens)?;
        Ok(Request { constraint, ..request })
    }
}

impl ResponseFields {
    fn check_unsupported(&self) -> Result<()> {
        let tools = self.tools.as_ref().is_some_and(|tools| !tools.is_empty());
        let choice = self.tool_choice.as_ref().is_some_and(|choice| choice != "auto" && choice != "none");
        for (name, given, what) in [
            ("tools", tools, "calling tools"),
            ("tool_choice", choice, "any choice but `auto` and `none`"),
            ("truncation", self.truncation.as_ref().is_some_and(|t| t != "disabled"), "cutting the input"),
            ("previous_response_id", self.previous_response_id.is_some(), "a stored response"),
            ("conversation", self.conversation.is_some(), "a stored conversation"),
            ("background", self.background == Some(true), "answering later"),
        ] {
            if given {
                return Err(ApiError::unsupported(name, what));
            }
        }
        Ok(())
    }

    fn messages(&self) -> Result<Vec<Message>> {
        let instructions = self.instructions.iter().map(|text| Message::new("system", text));
        let mut messages: Vec<Message> = instructions.collect();
        match &self.input {
            Input::Text(text) => messages.push(Message::new("user", text)),
            Input::Items(items) if items.is_empty() => {
                return Err(ApiError::field("input", "input is empty"));
            }
            Input::Items(items) => {
                for (i, item) in items.iter().enumerate() {
                    messages.push(item.message(&format!("input[{i}]"))?);
                }
            }
        }
        Ok(messages)
    }
}

impl Item {
    fn message(&self, param: &str) -> Result<Message> {
        let (Some(role), Some(content), None | Some("message")) =
            (self.role, &self.content, self.kind.as_deref())
        else {
            return Err(ApiError::unsupported(param, "anything but a message with role and content"));
        };
        let parts = match content {
            ItemContent::Text(text) => return Ok(Message::new(role.name(), text)),
            ItemContent::Parts(parts) => parts,
        };
        let mut texts = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            match (part.kind.as_str(), &part.text) {
                ("input_text" | "output_text" | "text", Some(text)) => texts.push(text.as_str()),
                _ => {
                    return Err(ApiError::unsupported(&format!("{param}.content[{i}]"), "any part but text"));
                }
            }
        }
        Ok(Message::new(role.name(), texts.join("\n")))
    }
}
