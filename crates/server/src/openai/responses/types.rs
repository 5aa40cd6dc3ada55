//! What a client sends.

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizer::template::Message;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::input::{Item, turns};
use crate::error::{ApiError, Result};
use crate::fields::{FromFields, Ignored, accept, merged, parse, take};
use crate::form::FormFields;
use crate::openai::tools::{ResponseTool, of_response};
use crate::prompt::Conversation;
use crate::registry::Model;
use crate::sampling::SamplingFields;
use crate::state::Ask;

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
    /// What the model may call; kept as it is, since the response repeats it.
    #[schema(value_type = Option<Vec<ResponseTool>>)]
    pub tools: Option<Vec<Value>>,
    /// Whether it must call something: `none`, `auto`, `required`, or a function.
    #[schema(value_type = Option<Value>)]
    pub tool_choice: Option<Value>,
    /// Whether more than one call may come in a reply; true if it is not given.
    pub parallel_tool_calls: Option<bool>,
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

/// Fields that are accepted because nothing here depends on them.
const ACCEPTED: [&str; 9] = [
    "store",
    "user",
    "include",
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
    pub fn ask(self, model: &Model) -> Result<Ask> {
        let Self { response: fields, sampling } = self;
        let max_tokens = fields.max_output_tokens;
        let format = fields.text.as_ref().and_then(|text| text.format.clone());
        let form = FormFields { response_format: format, ..FormFields::default() };
        let form =
            form.constraint().map_err(|error| ApiError { param: Some("text.format".into()), ..error })?;
        let prepared = fields.conversation()?.prepare(model)?;
        prepared.ask(1, form, |ids| sampling.request(model, ids, max_tokens))
    }
}

impl ResponseFields {
    fn check_unsupported(&self) -> Result<()> {
        for (name, given, what) in [
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

    /// The conversation, checked.
    fn conversation(self) -> Result<Conversation> {
        self.check_unsupported()?;
        let effort = self.reasoning.and_then(|reasoning| reasoning.effort);
        let instructions = self.instructions.into_iter().map(|text| Message::new("system", text));
        let mut messages: Vec<Message> = instructions.collect();
        match self.input {
            Input::Text(text) => messages.push(Message::new("user", text)),
            Input::Items(items) if items.is_empty() => {
                return Err(ApiError::field("input", "input is empty"));
            }
            Input::Items(items) => messages.extend(turns(items)?),
        }
        let tools = self.tools.map(Value::Array).unwrap_or(Value::Null);
        let tools: Option<Vec<ResponseTool>> = serde_json::from_value(tools)
            .map_err(|error| ApiError::field("tools", format!("tools: {error}")))?;
        Ok(Conversation {
            messages,
            tools: of_response(tools, self.tool_choice.as_ref(), self.parallel_tool_calls)?,
            thinking: effort.map(|effort| effort != "none"),
            ..Conversation::default()
        })
    }
}
