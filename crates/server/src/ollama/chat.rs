//! `/api/chat`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokenizer::template::Message;
use utoipa::ToSchema;

use super::options::{Options, check_images, thinking};
use super::stream::{Shape, answer, load_only};
use crate::auth::Caller;
use crate::error::Result;
use crate::fields::{Fields, FromFields, accept, parse};
use crate::form;
use crate::openai::tools::{ChatTool, of_chat};
use crate::prompt::Conversation;
use crate::state::Server;

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
    /// What the model may call, as OpenAI's clients describe it.
    #[serde(default)]
    tools: Option<Vec<ChatTool>>,
    /// Whether the model thinks first.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    think: Option<Value>,
}

/// One turn.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OllamaMessage {
    /// `system`, `user`, `assistant` or `tool`.
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
    /// What the assistant asked to call.
    #[serde(default)]
    tool_calls: Option<Vec<OllamaCall>>,
    /// The tool that a `tool` message is from.
    #[serde(default)]
    tool_name: Option<String>,
    /// The call that a `tool` message answers.
    #[serde(default)]
    tool_call_id: Option<String>,
}

/// A call that the assistant asked for.
#[derive(Debug, Clone, Deserialize, ToSchema)]
struct OllamaCall {
    /// Its name, if it has one.
    #[serde(default)]
    id: Option<String>,
    /// Which function, with what.
    function: OllamaFunction,
}

/// A function and what it is called with.
#[derive(Debug, Clone, Deserialize, ToSchema)]
struct OllamaFunction {
    /// Its name.
    name: String,
    /// Its arguments, an object.
    #[serde(default)]
    #[schema(value_type = Object)]
    arguments: Map<String, Value>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OllamaRole {
    System,
    User,
    Assistant,
    Tool,
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
    let form = form::of_ollama(request.format.as_ref())?;
    let tools = of_chat(request.tools, None, None)?;
    let messages = request.messages.unwrap_or_default();
    if messages.is_empty() {
        return load_only(server, request.model.as_deref(), Shape::Chat).await;
    }
    let messages = messages.into_iter().map(OllamaMessage::into_message).collect::<Result<Vec<_>>>()?;
    let (options, think) = (Options::new(request.options)?, thinking(request.think.as_ref())?);
    let streams = request.stream.unwrap_or(true);
    answer(server, caller, request.model, streams, Shape::Chat, move |model| {
        let talk = Conversation { messages, tools, thinking: think, ..Conversation::default() };
        talk.prepare(model)?.ask(1, form, |ids| options.request(model, ids))
    })
    .await
}

impl OllamaMessage {
    fn into_message(self) -> Result<Message> {
        check_images(self.images.as_ref())?;
        let role = match self.role {
            OllamaRole::System => "system",
            OllamaRole::User => "user",
            OllamaRole::Assistant => "assistant",
            OllamaRole::Tool => "tool",
        };
        let calls = self.tool_calls.filter(|calls| !calls.is_empty());
        let value = |(i, OllamaCall { id, function: OllamaFunction { name, arguments } })| {
            // Ollama's own calls have no names, and some templates want one.
            let id = id.unwrap_or_else(|| format!("call-{i}"));
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        };
        Ok(Message {
            reasoning_content: self.thinking,
            tool_calls: calls.map(|calls| calls.into_iter().enumerate().map(value).collect()),
            tool_call_id: self.tool_call_id,
            name: self.tool_name,
            ..Message::new(role, self.content)
        })
    }
}
