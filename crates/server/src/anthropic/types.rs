//! What Anthropic's clients send and get.

use engine::{Constraint, Stats};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenizer::template::Message;
use utoipa::ToSchema;

use crate::error::{ApiError, Result};
use crate::fields::{FromFields, Ignored, OneOrMany, accept, parse};
use crate::registry::Model;
use crate::sampling::SamplingFields;
use crate::{form, prompt};

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
    /// What the model may call; not supported yet.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Value>>)]
    pub tools: Option<Vec<Value>>,
    /// Whether it must call something.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub tool_choice: Option<Value>,
    /// The form of the reply.
    #[serde(default)]
    pub output_config: Option<OutputConfig>,
    /// Its form, as earlier clients send it.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub output_format: Option<Value>,
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

/// What was said: text, or blocks.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

/// A block of what was said; only text is served.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub(crate) struct Block {
    /// `text`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Ignored>,
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
    /// The tokens that the model reads.
    pub fn encode(&self, model: &Model) -> Result<Vec<u32>> {
        if self.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
            return Err(ApiError::unsupported("tools", "calling tools"));
        }
        if self
            .tool_choice
            .as_ref()
            .is_some_and(|choice| choice["type"] != "auto" && choice["type"] != "none")
        {
            return Err(ApiError::unsupported("tool_choice", "any choice but `auto` and `none`"));
        }
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "messages is empty"));
        }
        let system = self.system.as_ref().map(|content| content.text("system")).transpose()?;
        let mut messages: Vec<Message> =
            system.into_iter().map(|text| Message::new("system", text)).collect();
        for (i, message) in self.messages.iter().enumerate() {
            let role = match message.role {
                InputRole::User => "user",
                InputRole::Assistant => "assistant",
            };
            messages.push(Message::new(role, message.content.text(&format!("messages[{i}].content"))?));
        }
        let thinking = self.thinking.as_ref().map(|thinking| thinking.kind != ThinkingKind::Disabled);
        prompt::conversation(model, messages, thinking)
    }

    /// What the engine is asked for.
    pub fn request(&self, model: &Model) -> Result<engine::Request> {
        let missing = || ApiError::field("max_tokens", "max_tokens is missing");
        let max_tokens = self.max_tokens.ok_or_else(missing)?;
        let sampling = SamplingFields {
            temperature: Some(self.temperature.unwrap_or(1.0)),
            top_p: self.top_p,
            top_k: self.top_k,
            stop: self.stop_sequences.clone().map(OneOrMany::Many),
            ..SamplingFields::default()
        };
        let constraint = self.constraint()?;
        let request = sampling.request(model, self.encode(model)?, Some(max_tokens))?;
        Ok(engine::Request { constraint, ..request })
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

impl Content {
    fn text(&self, param: &str) -> Result<String> {
        let blocks = match self {
            Self::Text(text) => return Ok(text.clone()),
            Self::Blocks(blocks) => blocks,
        };
        let mut texts = Vec::new();
        for (i, block) in blocks.iter().enumerate() {
            match (block.kind.as_str(), &block.text) {
                ("text", Some(text)) => texts.push(text.as_str()),
                _ => return Err(ApiError::unsupported(&format!("{param}[{i}]"), "any block but text")),
            }
        }
        Ok(texts.join("\n"))
    }
}

/// A reply.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct MessageAnswer {
    pub id: String,
    /// `message`
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `assistant`
    pub role: &'static str,
    pub model: String,
    pub content: Vec<TextBlock>,
    pub stop_reason: Option<&'static str>,
    pub stop_sequence: Option<String>,
    pub usage: MessageUsage,
}

/// A block of text.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TextBlock {
    /// `text`
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub text: String,
}

impl TextBlock {
    pub fn new(text: String) -> Self {
        Self { kind: "text", text }
    }
}

/// How many tokens it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct MessageUsage {
    /// Of the prompt, without those that the cache held.
    pub input_tokens: usize,
    /// Of the reply.
    pub output_tokens: usize,
    /// Of the prompt, found in the cache.
    pub cache_read_input_tokens: usize,
    /// Always 0: what is cached is not told apart.
    pub cache_creation_input_tokens: usize,
}

impl From<&Stats> for MessageUsage {
    fn from(stats: &Stats) -> Self {
        Self {
            input_tokens: stats.prompt_tokens - stats.cached_tokens,
            output_tokens: stats.generated_tokens,
            cache_read_input_tokens: stats.cached_tokens,
            cache_creation_input_tokens: 0,
        }
    }
}
