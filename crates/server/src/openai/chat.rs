//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::answer::{ChatCompletion, Head, Tokens, whole};
use super::chat_stream::{ChatStream, Shown};
use super::messages::ChatMessage;
use super::tools::{self, ChatTool};
use super::{MAX_CHOICES, StreamOptions};
use crate::auth::Caller;
use crate::error::{ApiError, Result};
use crate::fields::{Both, Fields, FromFields, accept, merged, parse, take};
use crate::form::FormFields;
use crate::prompt::Conversation;
use crate::registry::Model;
use crate::sampling::SamplingFields;
use crate::state::{Ask, Server};
use crate::stream::{self, Framing};

/// Fields that are accepted because nothing here depends on them.
const ACCEPTED: [&str; 11] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prediction",
    "cache_prompt",
    "id_slot",
];

/// A conversation to be continued.
#[derive(Debug, Clone)]
pub(crate) struct ChatRequest {
    pub chat: ChatFields,
    pub form: FormFields,
    pub sampling: SamplingFields,
}

/// The fields of a chat request that are not about sampling.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatFields {
    /// The conversation so far.
    pub messages: Vec<ChatMessage>,
    /// Which model; nothing: the first that is served.
    pub model: Option<String>,
    /// Send the reply piece by piece.
    pub stream: Option<bool>,
    /// What the stream holds besides.
    pub stream_options: Option<StreamOptions>,
    /// How many replies.
    pub n: Option<usize>,
    /// Most tokens of a reply.
    pub max_tokens: Option<usize>,
    /// The same by its newer name.
    pub max_completion_tokens: Option<usize>,
    /// Tell log-probabilities.
    pub logprobs: Option<bool>,
    /// Of so many alternatives, at most 20.
    pub top_logprobs: Option<usize>,
    /// Further variables of the chat template.
    #[schema(value_type = Option<Value>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Let the model think: `none` turns it off where the template can.
    pub reasoning_effort: Option<String>,
    /// What the model may call.
    pub tools: Option<Vec<ChatTool>>,
    /// Whether it must call something: `none`, `auto`, `required`, or a function.
    #[schema(value_type = Option<Value>)]
    pub tool_choice: Option<Value>,
    /// Whether more than one call may come in a reply; true if it is not given.
    pub parallel_tool_calls: Option<bool>,
    /// Only `["text"]`.
    pub modalities: Option<Vec<String>>,
}

impl PartialSchema for ChatRequest {
    fn schema() -> RefOr<Schema> {
        merged::<ChatFields, Both<FormFields, SamplingFields>>()
    }
}

impl ToSchema for ChatRequest {}

impl FromFields for ChatRequest {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &ACCEPTED);
        let (form, sampling) = (take(&mut fields)?, take(&mut fields)?);
        Ok(Self { chat: parse(fields)?, form, sampling })
    }
}

impl ChatRequest {
    /// What the engine is asked for.
    fn ask(self, model: &Model) -> Result<Ask> {
        let (n, max_tokens, logprobs) = (self.n()?, self.max_tokens()?, self.logprobs()?);
        let Self { chat, form, sampling } = self;
        let constraint = form.constraint()?;
        let talk = Conversation { form: constraint, ..chat.conversation()? };
        talk.prepare(model)?
            .ask(n, |ids| Ok(engine::Request { logprobs, ..sampling.request(model, ids, max_tokens)? }))
    }

    fn n(&self) -> Result<usize> {
        match self.chat.n {
            None => Ok(1),
            Some(n @ 1..=MAX_CHOICES) => Ok(n),
            Some(n) => Err(ApiError::field("n", format!("n is {n}, but must be from 1 to {MAX_CHOICES}"))),
        }
    }

    fn max_tokens(&self) -> Result<Option<usize>> {
        match (self.chat.max_tokens, self.chat.max_completion_tokens) {
            (Some(a), Some(b)) if a != b => {
                Err(ApiError::field("max_tokens", "max_tokens and max_completion_tokens differ"))
            }
            (a, b) => Ok(a.or(b)),
        }
    }

    fn logprobs(&self) -> Result<Option<usize>> {
        match (self.chat.logprobs.unwrap_or(false), self.chat.top_logprobs) {
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(ApiError::field("top_logprobs", "top_logprobs needs `logprobs: true`")),
        }
    }
}

impl ChatFields {
    /// The conversation, checked.
    pub fn conversation(self) -> Result<Conversation> {
        if self.modalities.is_some_and(|modalities| modalities.iter().any(|m| m != "text")) {
            return Err(ApiError::unsupported("modalities", "any modality but `text`"));
        }
        if self.messages.is_empty() {
            return Err(ApiError::field("messages", "messages is missing or empty"));
        }
        let messages = self.messages.into_iter().enumerate();
        let mut extra = self.chat_template_kwargs.unwrap_or_default();
        let thinking = match extra.remove("enable_thinking") {
            None => self.reasoning_effort.map(|effort| effort != "none"),
            Some(Value::Bool(thinking)) => Some(thinking),
            Some(_) => {
                let param = "chat_template_kwargs.enable_thinking";
                return Err(ApiError::field(param, format!("{param} should be true or false")));
            }
        };
        Ok(Conversation {
            messages: messages.map(|(i, m)| m.into_message(i)).collect::<Result<_>>()?,
            tools: tools::of_chat(self.tools, self.tool_choice.as_ref(), self.parallel_tool_calls)?,
            form: None,
            thinking,
            extra,
        })
    }
}

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "OpenAI", request_body = ChatRequest,
    responses((status = 200, body = ChatCompletion), (status = 400, body = Value)))]
pub(crate) async fn complete(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<ChatRequest>,
) -> Result<Response> {
    let name = request.chat.model.clone();
    let streams = request.chat.stream.unwrap_or(false);
    let include_usage =
        request.chat.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
    let ignore_eos = request.sampling.ignore_eos.unwrap_or(false);
    let logprobs = request.chat.logprobs.unwrap_or(false);
    if request.chat.stream_options.is_some() && !streams {
        return Err(ApiError::field("stream_options", "stream_options needs `stream: true`"));
    }
    let ask = move |model: &Model| Ok(vec![request.ask(model)?]);
    let mut running = server.start(&caller, name.as_deref(), ask).await?;
    let head = Head::new(&running.lease.name);
    let tokens = Tokens { model: running.lease.model(), ignore_eos };
    if streams {
        let teller = ChatStream::new(&running, head, tokens, Shown { include_usage, logprobs });
        return Ok(stream::respond(running, teller, Framing::Events));
    }
    Ok(Json(whole(&mut running, head, &tokens, logprobs).await?).into_response())
}
