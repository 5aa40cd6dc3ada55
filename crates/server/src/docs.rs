//! The OpenAPI document, and a page that shows it.

use axum::Json;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use utoipa::OpenApi;

use crate::{anthropic, health, ollama, openai, tokens};

/// What the server offers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Quarrel",
        description = "Large language models from GGUF files, behind the APIs that clients know."
    ),
    paths(
        health::live,
        health::ready,
        health::metrics,
        openai::models::list,
        openai::models::one,
        openai::chat::complete,
        openai::completions::complete,
        openai::embeddings::create,
        openai::responses::create,
        anthropic::messages::create,
        anthropic::messages::count_tokens,
        ollama::chat::chat,
        ollama::generate::generate,
        ollama::embed::embed_texts,
        ollama::embed::embed_prompt,
        ollama::models::tags,
        ollama::models::ps,
        ollama::models::show,
        ollama::models::version,
        ollama::pull::pull,
        tokens::tokenize,
        tokens::detokenize,
        tokens::apply_template,
    )
)]
struct Document;

/// The OpenAPI document of this server.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// `/openapi.json`
pub(crate) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(openapi())
}

/// `/docs`: a page of our own, since the known ones load scripts from elsewhere.
pub(crate) async fn page() -> impl IntoResponse {
    let policy =
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("docs.html")))
}
