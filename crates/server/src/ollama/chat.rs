//! `/api/chat`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizer::template::Message;
use utoipa::ToSchema;

use super::options::{Options, check_images, thinking};
use super::stream::{Shape, answer, load_only};
use crate::auth::Caller;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, FromFields, Ignored, accept, parse};
use crate::state::Server;
use crate::{form, prompt};

/// A conversation to be continued.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OllamaChat {
    /// Which model.
    #[serde(default)]
    model: Option<String>,
    /// The conversation so far; none only loads the model.
    #[serde(default)]
    messages: Option<Vec<OllamaMessage>>,
    /// Send the reply piece by piece; true if it is not given.
    #[serde(default)]
    stream: Option<bool>,
    /// The form of the reply: `json`, or a JSON schema.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    format: Option<Value>,
    /// How the reply is made.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    options: Option<Map<String, Value>>,
    /// What the model may call; not supported yet.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Value>>)]
    tools: Option<Vec<Value>>,
    /// Whether the model thinks first.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    think: Option<Value>,
}

/// One turn.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OllamaMessage {
    /// `system`, `user` or `assistant`.
    role: OllamaRole,
    /// What was said.
    #[serde(default)]
    content: String,
    /// What the assistant thought before.
    #[serde(default)]
    thinking: Option<String>,
    /// Not supported.
    #[serde(default)]
    images: Option<Vec<String>>,
    /// Not supported yet.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Value>>)]
    tool_calls: Option<Vec<Value>>,
    #[serde(rename = "tool_name")]
    _tool_name: Option<Ignored>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OllamaRole {
    System,
    User,
    Assistant,
}

impl FromFields for OllamaChat {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &["keep_alive"]);
        parse(fields)
    }
}

/// Continues a conversation.
#[utoipa::path(post, path = "/api/chat", tag = "Ollama", request_body = OllamaChat,
    responses((status = 200, body = Value), (status = 400, body = Value)))]
pub(crate) async fn chat(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<OllamaChat>,
) -> Result<Response> {
    let constraint = form::of_ollama(request.format.as_ref())?;
    if request.tools.is_some_and(|tools| !tools.is_empty()) {
        return Err(ApiError::unsupported("tools", "calling tools"));
    }
    let messages = request.messages.unwrap_or_default();
    if messages.is_empty() {
        return load_only(server, request.model.as_deref(), Shape::Chat).await;
    }
    let messages = messages.into_iter().map(OllamaMessage::into_message).collect::<Result<Vec<_>>>()?;
    let (options, think) = (Options::new(request.options)?, thinking(request.think.as_ref())?);
    let streams = request.stream.unwrap_or(true);
    answer(server, caller, request.model, streams, Shape::Chat, move |model| {
        let request = options.request(model, prompt::conversation(model, messages, think)?)?;
        Ok(engine::Request { constraint, ..request })
    })
    .await
}

impl OllamaMessage {
    fn into_message(self) -> Result<Message> {
        check_images(self.images.as_ref())?;
        if self.tool_calls.is_some_and(|calls| !calls.is_empty()) {
            return Err(ApiError::unsupported("tool_calls", "calling tools"));
        }
        let role = match self.role {
            OllamaRole::System => "system",
            OllamaRole::User => "user",
            OllamaRole::Assistant => "assistant",
        };
        Ok(Message { reasoning_content: self.thinking, ..Message::new(role, self.content) })
    }
}
