//! `/tokenize`, `/detokenize` and `/apply-template`: what the model would read.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenizer::{Decode, Encode};
use utoipa::ToSchema;

use crate::error::{ApiError, Result};
use crate::fields::{Fields, FromFields, parse};
use crate::openai::chat::ChatFields;
use crate::state::Server;

/// A text to be turned into tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// The text.
    content: String,
    /// Which model's tokens; nothing: the first that is served.
    #[serde(default)]
    model: Option<String>,
    /// Add the tokens that begin and end a text.
    #[serde(default)]
    add_special: bool,
    /// Read special tokens in the text as such.
    #[serde(default = "yes")]
    parse_special: bool,
    /// Give each token's text too.
    #[serde(default)]
    with_pieces: bool,
}

fn yes() -> bool {
    true
}

/// Tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokens {
    tokens: Vec<Token>,
}

/// A token's id, with its text if that was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Token {
    Id(u32),
    Piece { id: u32, piece: Piece },
}

/// A token's text, or its bytes where they are no text by themselves.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

/// Tokens to be turned into text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// The tokens' ids.
    tokens: Vec<u32>,
    /// Which model's tokens; nothing: the first that is served.
    #[serde(default)]
    model: Option<String>,
}

/// Text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Text {
    content: String,
}

/// A conversation as the model reads it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Prompt {
    prompt: String,
}

impl FromFields for TokenizeRequest {
    fn from_fields(fields: Map<String, Value>) -> Result<Self> {
        parse(fields)
    }
}

impl FromFields for DetokenizeRequest {
    fn from_fields(fields: Map<String, Value>) -> Result<Self> {
        parse(fields)
    }
}

impl FromFields for ChatFields {
    fn from_fields(fields: Map<String, Value>) -> Result<Self> {
        parse(fields)
    }
}

/// Turns a text into tokens.
#[utoipa::path(post, path = "/tokenize", tag = "Tokens", request_body = TokenizeRequest,
    responses((status = 200, body = Tokens), (status = 400, body = Value)))]
pub(crate) async fn tokenize(
    State(server): State<Arc<Server>>,
    Fields(request): Fields<TokenizeRequest>,
) -> Result<Json<Tokens>> {
    let admitted = server.admit(request.model.as_deref()).await?;
    let tokens = server.compute(&admitted.lease, move |model| {
        let how = Encode { add_special: request.add_special, parse_special: request.parse_special };
        let ids = model.tokenizer.encode(&request.content, how);
        let token = |id| {
            if !request.with_pieces {
                return Token::Id(id);
            }
            let bytes = model.tokenizer.token_bytes(id).to_vec();
            let piece = String::from_utf8(bytes).map_or_else(|e| Piece::Bytes(e.into_bytes()), Piece::Text);
            Token::Piece { id, piece }
        };
        Ok(ids.into_iter().map(token).collect())
    });
    Ok(Json(Tokens { tokens: tokens.await? }))
}

/// Turns tokens into text.
#[utoipa::path(post, path = "/detokenize", tag = "Tokens", request_body = DetokenizeRequest,
    responses((status = 200, body = Text), (status = 400, body = Value)))]
pub(crate) async fn detokenize(
    State(server): State<Arc<Server>>,
    Fields(request): Fields<DetokenizeRequest>,
) -> Result<Json<Text>> {
    let admitted = server.admit(request.model.as_deref()).await?;
    let content = server.compute(&admitted.lease, move |model| {
        let n_vocab = model.tokenizer.vocab_size();
        if let Some(id) = request.tokens.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(ApiError::field(
                "tokens",
                format!("token {id} is not in the vocabulary of {n_vocab}"),
            ));
        }
        Ok(model.tokenizer.decode(&request.tokens, Decode { special: true, from_start: true }))
    });
    Ok(Json(Text { content: content.await? }))
}

/// Turns a conversation into the text that the model reads.
#[utoipa::path(post, path = "/apply-template", tag = "Tokens", request_body = ChatFields,
    responses((status = 200, body = Prompt), (status = 400, body = Value)))]
pub(crate) async fn apply_template(
    State(server): State<Arc<Server>>,
    Fields(request): Fields<ChatFields>,
) -> Result<Json<Prompt>> {
    let admitted = server.admit(request.model.as_deref()).await?;
    let rendered = server.compute(&admitted.lease, move |model| request.conversation()?.render(model));
    Ok(Json(Prompt { prompt: rendered.await? }))
}
