//! `/api/embed`, and `/api/embeddings`, its older form.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::options::Options;
use crate::auth::Caller;
use crate::embedding::{Ask, Input, embed};
use crate::error::{ApiError, Result};
use crate::fields::{Fields, FromFields, OneOrMany, accept, parse};
use crate::state::Server;

/// Texts to be embedded.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OllamaEmbed {
    /// Which model.
    #[serde(default)]
    model: Option<String>,
    /// The text or texts; none only loads the model.
    #[serde(default)]
    input: Option<OneOrMany<String>>,
    /// Cut texts that the context does not hold. Nothing is cut unless this says so.
    #[serde(default)]
    truncate: Option<bool>,
    /// The length of embeddings; none but the model's own.
    #[serde(default)]
    dimensions: Option<usize>,
    /// How the model is run: as elsewhere; what is about sampling means nothing here.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    options: Option<Map<String, Value>>,
}

/// A text to be embedded.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OllamaEmbeddings {
    /// Which model.
    #[serde(default)]
    model: Option<String>,
    /// The text; none only loads the model.
    #[serde(default)]
    prompt: Option<String>,
    /// As in `/api/embed`.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    options: Option<Map<String, Value>>,
}

/// Embeddings of texts; times in nanoseconds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaEmbedAnswer)]
pub(crate) struct Embeddings {
    model: String,
    embeddings: Vec<Vec<f32>>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
}

/// The embedding of one text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PromptEmbedding {
    embedding: Vec<f32>,
}

impl FromFields for OllamaEmbed {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &["keep_alive"]);
        parse(fields)
    }
}

impl FromFields for OllamaEmbeddings {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &["keep_alive"]);
        parse(fields)
    }
}

/// Embeds texts: each embedding has length 1.
#[utoipa::path(post, path = "/api/embed", tag = "Ollama", request_body = OllamaEmbed,
    responses((status = 200, body = Embeddings), (status = 400, body = Value)))]
pub(crate) async fn embed_texts(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<OllamaEmbed>,
) -> Result<Json<Embeddings>> {
    let begun = Instant::now();
    let texts: Vec<String> = request.input.map_or_else(Vec::new, Into::into);
    let texts: Vec<String> = if texts == [""] { Vec::new() } else { texts };
    let answer = |model: &str, embeddings: Vec<Vec<f32>>, queued: Duration, tokens: usize| {
        Json(Embeddings {
            model: model.to_owned(),
            embeddings,
            total_duration: nanoseconds(begun.elapsed()),
            load_duration: nanoseconds(queued),
            prompt_eval_count: tokens,
        })
    };
    let name = request.model.as_deref();
    let options = Options::new(request.options)?;
    if texts.is_empty() {
        let admitted = server.admit(name).await?;
        return Ok(answer(&admitted.lease.name, Vec::new(), begun.elapsed(), 0));
    }
    let ask = Ask {
        input: Input::Texts(texts),
        dimensions: request.dimensions,
        truncate: request.truncate.unwrap_or(false),
        normalise: true,
    };
    let embedded =
        embed(&server, &caller, name, move |model| options.check_context(model).and(Ok(ask))).await?;
    let tokens = embedded.prompt_tokens();
    let queued = embedded.embeddings.iter().map(|embedding| embedding.stats.queued).min();
    let values = embedded.embeddings.into_iter().map(|embedding| embedding.values).collect();
    Ok(answer(&embedded.model, values, queued.unwrap_or_default(), tokens))
}

/// Embeds a text; the embedding has whatever length the model gives it, as Ollama has it.
#[utoipa::path(post, path = "/api/embeddings", tag = "Ollama", request_body = OllamaEmbeddings,
    responses((status = 200, body = PromptEmbedding), (status = 400, body = Value)))]
pub(crate) async fn embed_prompt(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<OllamaEmbeddings>,
) -> Result<Json<PromptEmbedding>> {
    let name = request.model.as_deref();
    let options = Options::new(request.options)?;
    let Some(text) = request.prompt.filter(|prompt| !prompt.is_empty()) else {
        server.admit(name).await?;
        return Ok(Json(PromptEmbedding { embedding: Vec::new() }));
    };
    let ask = Ask { input: Input::Text(text), dimensions: None, truncate: false, normalise: false };
    let embedded =
        embed(&server, &caller, name, move |model| options.check_context(model).and(Ok(ask))).await?;
    let embedding = embedded.embeddings.into_iter().next().ok_or_else(ApiError::internal)?.values;
    Ok(Json(PromptEmbedding { embedding }))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
