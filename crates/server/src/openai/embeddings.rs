//! `/v1/embeddings`.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::embedding::{Ask, Input, embed};
use crate::error::Result;
use crate::fields::{Fields, FromFields, accept, parse};
use crate::state::Server;

/// Texts to be embedded.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingsRequest {
    /// The text, several texts, or tokens of one or several.
    input: Input,
    /// Which model; nothing: the first that is served.
    #[serde(default)]
    model: Option<String>,
    /// How numbers are written.
    #[serde(default)]
    encoding_format: Encoding,
    /// The length of embeddings; none but the model's own.
    #[serde(default)]
    dimensions: Option<usize>,
}

/// How numbers are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    /// As a list.
    #[default]
    Float,
    /// As little-endian f32 in base64.
    Base64,
}

impl FromFields for EmbeddingsRequest {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &["user"]);
        parse(fields)
    }
}

/// Embeddings of texts.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embeddings {
    /// `list`
    object: &'static str,
    model: String,
    data: Vec<Item>,
    usage: EmbeddingUsage,
}

/// One text's embedding.
#[derive(Debug, Serialize, ToSchema)]
struct Item {
    /// `embedding`
    object: &'static str,
    /// Which text.
    index: usize,
    embedding: Numbers,
}

/// The numbers of an embedding.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Numbers {
    List(Vec<f32>),
    Base64(String),
}

/// The numbers of tokens.
#[derive(Debug, Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Encoding {
    fn write(self, values: Vec<f32>) -> Numbers {
        match self {
            Self::Float => Numbers::List(values),
            Self::Base64 => {
                let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
                Numbers::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Embeds texts: each embedding has length 1.
#[utoipa::path(post, path = "/v1/embeddings", tag = "OpenAI", request_body = EmbeddingsRequest,
    responses((status = 200, body = Embeddings), (status = 400, body = Value)))]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<EmbeddingsRequest>,
) -> Result<Json<Embeddings>> {
    let EmbeddingsRequest { input, model, encoding_format, dimensions } = request;
    let ask = Ask { input, dimensions, truncate: false, normalise: true };
    let embedded = embed(&server, &caller, model.as_deref(), move |_| Ok(ask)).await?;
    let prompt_tokens = embedded.prompt_tokens();
    let item = |(index, embedding): (usize, engine::Embedding)| Item {
        object: "embedding",
        index,
        embedding: encoding_format.write(embedding.values),
    };
    Ok(Json(Embeddings {
        object: "list",
        data: embedded.embeddings.into_iter().enumerate().map(item).collect(),
        model: embedded.model,
        usage: EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens },
    }))
}
