//! `/api/generate`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizer::Encode;
use tokenizer::template::Message;
use utoipa::ToSchema;

use super::options::{Options, check_images, thinking};
use super::stream::{Shape, answer, load_only};
use crate::auth::Caller;
use crate::error::{ApiError, Result};
use crate::fields::{Fields, FromFields, accept, parse};
use crate::form;
use crate::prompt::Conversation;
use crate::reading::Reading;
use crate::state::{Ask, Server};

/// A prompt to be answered.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OllamaGenerate {
    /// Which model.
    #[serde(default)]
    model: Option<String>,
    /// The prompt; none only loads the model.
    #[serde(default)]
    prompt: Option<String>,
    /// Instructions that come first.
    #[serde(default)]
    system: Option<String>,
    /// Continue the prompt as it is, without the chat template.
    #[serde(default)]
    raw: Option<bool>,
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
    /// Whether the model thinks first.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    think: Option<Value>,
    /// Not supported.
    #[serde(default)]
    images: Option<Vec<String>>,
    /// Not supported: text behind a gap.
    #[serde(default)]
    suffix: Option<String>,
    /// Not supported: another template.
    #[serde(default)]
    template: Option<String>,
    /// Not supported: tokens of earlier turns.
    #[serde(default)]
    context: Option<Vec<u32>>,
}

impl FromFields for OllamaGenerate {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &["keep_alive"]);
        parse(fields)
    }
}

/// Answers a prompt.
#[utoipa::path(post, path = "/api/generate", tag = "Ollama", request_body = OllamaGenerate,
    responses((status = 200, body = Value), (status = 400, body = Value)))]
pub(crate) async fn generate(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<OllamaGenerate>,
) -> Result<Response> {
    check_images(request.images.as_ref())?;
    let constraint = form::of_ollama(request.format.as_ref())?;
    for (name, given) in [
        ("suffix", request.suffix.as_ref().is_some_and(|text| !text.is_empty())),
        ("template", request.template.as_ref().is_some_and(|text| !text.is_empty())),
        ("context", request.context.as_ref().is_some_and(|ids| !ids.is_empty())),
    ] {
        if given {
            return Err(ApiError::unsupported(name, "this"));
        }
    }
    let Some(text) = request.prompt.filter(|prompt| !prompt.is_empty()) else {
        return load_only(server, request.model.as_deref(), Shape::Generate).await;
    };
    let raw = request.raw.unwrap_or(false);
    if raw && request.system.is_some() {
        return Err(ApiError::field("system", "system and raw exclude each other"));
    }
    let (options, think) = (Options::new(request.options)?, thinking(request.think.as_ref())?);
    let system = request.system.filter(|system| !system.is_empty());
    let streams = request.stream.unwrap_or(true);
    answer(server, caller, request.model, streams, Shape::Generate, move |model| {
        // A model without a template continues texts.
        if raw || model.template.is_none() {
            let ids = model.tokenizer.encode(&text, Encode { add_special: true, parse_special: true });
            let request = engine::Request { constraint, ..options.request(model, ids)? };
            return Ok(Ask { request, n: 1, reading: Reading::default() });
        }
        let system = system.into_iter().map(|system| Message::new("system", system));
        let messages = system.chain([Message::new("user", text)]).collect();
        let talk = Conversation::of(messages, think);
        talk.prepare(model)?.ask(1, constraint, |ids| options.request(model, ids))
    })
    .await
}
