//! What Anthropic's clients send.

use engine::Constraint;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizer::template::Message;
use utoipa::ToSchema;

use super::content::Content;
use crate::error::{ApiError, Result};
use crate::fields::{FromFields, Ignored, OneOrMany, accept, parse};
use crate::form;
use crate::prompt::Conversation;
use crate::registry::Model;
use crate::sampling::SamplingFields;
use crate::state::Ask;
use crate::tools::{Choice, Tool, Tools};

/// A conversation to be continued.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessagesRequest {
    /// The conversation so far.
    pub messages: Vec<InputMessage>,
    /// Which model.
    #[serde(default)]
    pub model: Option<String>,
    /// Instructions that come first.
    #[serde(default)]
    pub system: Option<Content>,
    /// Most tokens of the reply; only counting needs none.
    #[serde(default)]
    pub max_tokens: Option<usize>,
    /// Send the reply piece by piece.
    #[serde(default)]
    pub stream: Option<bool>,
    /// Texts that end the reply.
    #[serde(default)]
    pub stop_sequences: Option<Vec<String>>,
    /// Randomness; 1 if it is not given, as Anthropic has it.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Consider only so many of the likeliest tokens.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Consider the likeliest tokens that together reach this probability.
    #[serde(default)]
    pub top_p: Option<f32>,
    /// Whether the model thinks first, where its template can tell it.
    #[serde(default)]
    pub thinking: Option<Thinking>,
    /// What the model may call.
    #[serde(default)]
    pub tools: Option<Vec<ToolDefinition>>,
    /// Whether it must call something.
    #[serde(default)]
    pub tool_choice: Option<ToolChoice>,
    /// The form of the reply.
    #[serde(default)]
    pub output_config: Option<OutputConfig>,
    /// Its form, as earlier clients send it.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub output_format: Option<Value>,
}

/// A function that the model may call.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct ToolDefinition {
    /// Its name.
    pub name: String,
    /// `custom`, which is also meant by nothing.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    /// What it does, for the model to read.
    #[serde(default)]
    pub description: Option<String>,
    /// JSON schema of its arguments.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub input_schema: Option<Value>,
    /// Arguments must be as the schema says.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// Whether the model must call something.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolChoice {
    #[serde(rename = "type")]
    pub kind: ToolChoiceKind,
    /// Which tool, if it is to be one.
    #[serde(default)]
    pub name: Option<String>,
    /// At most one call in a reply.
    #[serde(default)]
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether the model must call something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToolChoiceKind {
    Auto,
    Any,
    Tool,
    None,
}

/// What the reply should be like.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OutputConfig {
    /// `{"type": "json_schema", "schema": {…}}`.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub format: Option<Value>,
    #[serde(rename = "effort")]
    _effort: Option<Ignored>,
}

/// Whether the model thinks first.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Thinking {
    /// `enabled` or `disabled`.
    #[serde(rename = "type")]
    pub kind: ThinkingKind,
}

/// Whether the model thinks first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ThinkingKind {
    Enabled,
    Adaptive,
    Disabled,
}

/// One turn.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InputMessage {
    /// `user` or `assistant`.
    pub role: InputRole,
    /// What was said.
    pub content: Content,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum InputRole {
    User,
    Assistant,
}

/// Fields that are accepted because nothing here depends on them.
const ACCEPTED: [&str; 8] = [
    "metadata",
    "service_tier",
    "inference_geo",
    "cache_control",
    "speed",
    "diagnostics",
    "user_profile_id",
    "workspace_id",
];

impl FromFields for MessagesRequest {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &ACCEPTED);
        parse(fields)
    }
}

impl MessagesRequest {
    /// The conversation, checked.
    pub fn conversation(self) -> Result<Conversation> {
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "messages is empty"));
        }
        let system = self.system.map(|content| content.text("system")).transpose()?;
        let mut messages: Vec<Message> =
            system.into_iter().map(|text| Message::new("system", text)).collect();
        for (i, message) in self.messages.into_iter().enumerate() {
            let role = match message.role {
                InputRole::User => "user",
                InputRole::Assistant => "assistant",
            };
            messages.extend(message.content.turns(role, &format!("messages[{i}].content"))?);
        }
        let thinking = self.thinking.map(|thinking| thinking.kind != ThinkingKind::Disabled);
        let tools = tools(self.tools, self.tool_choice)?;
        Ok(Conversation { messages, tools, thinking, ..Conversation::default() })
    }

    /// What the engine is asked for.
    pub fn ask(self, model: &Model) -> Result<Ask> {
        let missing = || ApiError::field("max_tokens", "max_tokens is missing");
        let max_tokens = self.max_tokens.ok_or_else(missing)?;
        let sampling = SamplingFields {
            temperature: Some(self.temperature.unwrap_or(1.0)),
            top_p: self.top_p,
            top_k: self.top_k,
            stop: self.stop_sequences.clone().map(OneOrMany::Many),
            ..SamplingFields::default()
        };
        let form = self.constraint()?;
        let prepared = self.conversation()?.prepare(model)?;
        prepared.ask(1, form, |ids| sampling.request(model, ids, Some(max_tokens)))
    }

    /// The form that the reply must have.
    fn constraint(&self) -> Result<Option<Constraint>> {
        let config = self.output_config.as_ref().and_then(|config| config.format.as_ref());
        let (param, format) = match (config, &self.output_format) {
            (Some(_), Some(_)) => {
                let message = "output_config.format and output_format both ask for a form; give one";
                return Err(ApiError::field("output_format", message));
            }
            (Some(format), None) => ("output_config.format", format),
            (None, Some(format)) => ("output_format", format),
            (None, None) => return Ok(None),
        };
        form::of_anthropic(param, format).map(Some)
    }
}

fn tools(tools: Option<Vec<ToolDefinition>>, choice: Option<ToolChoice>) -> Result<Tools> {
    let mut list = Vec::new();
    for (i, tool) in tools.into_iter().flatten().enumerate() {
        let ToolDefinition { name, kind, description, input_schema, strict } = tool;
        if kind.is_some_and(|kind| kind != "custom") {
            return Err(ApiError::unsupported(&format!("tools[{i}]"), "any tool but the caller's own"));
        }
        let strict = strict.unwrap_or(false);
        list.push(Tool { name, description, parameters: input_schema, strict });
    }
    let Some(choice) = choice else { return Tools::new(list, Choice::Auto, true) };
    let parallel = !choice.disable_parallel_tool_use.unwrap_or(false);
    let choice = match (choice.kind, choice.name) {
        (ToolChoiceKind::Auto, _) => Choice::Auto,
        (ToolChoiceKind::Any, _) => Choice::Required,
        (ToolChoiceKind::None, _) => Choice::Never,
        (ToolChoiceKind::Tool, Some(name)) => Choice::Named(name),
        (ToolChoiceKind::Tool, None) => {
            return Err(ApiError::field("tool_choice.name", "tool_choice.name is missing"));
        }
    };
    Tools::new(list, choice, parallel)
}
