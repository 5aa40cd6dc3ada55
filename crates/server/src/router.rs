//! Which path does what, and what every request passes first.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{any, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, CorsLayer};

use crate::error::ApiError;
use crate::state::Server;
use crate::{access, anthropic, auth, docs, guard, health, ollama, openai, tokens, web};

/// All routes behind all checks.
pub(crate) fn router(server: Arc<Server>) -> Router {
    let routes = Router::new()
        .route("/", get(web::page))
        .route("/assets/{name}", get(web::asset))
        .route("/health", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(docs::document))
        .route("/docs", get(docs::page))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        // Clients of llama.cpp's server may leave the version out.
        .route("/models", get(openai::models::list))
        .route("/chat/completions", post(openai::chat::complete))
        .route("/responses", post(openai::responses::create))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*model}", get(openai::models::one))
        .route("/v1/chat/completions", post(openai::chat::complete))
        .route("/v1/completions", post(openai::completions::complete))
        .route("/v1/embeddings", post(openai::embeddings::create))
        .route("/v1/responses", post(openai::responses::create))
        .route("/v1/messages", post(anthropic::messages::create))
        .route("/v1/messages/count_tokens", post(anthropic::messages::count_tokens))
        .route("/api/chat", post(ollama::chat::chat))
        .route("/api/generate", post(ollama::generate::generate))
        .route("/api/embed", post(ollama::embed::embed_texts))
        .route("/api/embeddings", post(ollama::embed::embed_prompt))
        .route("/api/tags", get(ollama::models::tags))
        .route("/api/ps", get(ollama::models::ps))
        .route("/api/show", post(ollama::models::show))
        .route("/api/version", get(ollama::models::version))
        .route("/api/pull", post(ollama::pull::pull))
        .route("/api/create", any(ollama::absent::refuse))
        .route("/api/copy", any(ollama::absent::refuse))
        .route("/api/delete", any(ollama::absent::refuse))
        .route("/api/push", any(ollama::absent::refuse))
        .route("/api/blobs/{digest}", any(ollama::absent::refuse))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path has no such method")
        });
    // The last layer is the first to see a request.
    routes
        .layer(from_fn_with_state(server.clone(), auth::require_key))
        .layer(from_fn_with_state(server.clone(), guard::check_source))
        .layer(CatchPanicLayer::custom(access::panicked))
        .layer(cors(&server.config.allowed_origins))
        .layer(from_fn(access::translate))
        .layer(from_fn(access::note))
        .with_state(server)
}

/// Pages of the configured origins may read answers; no others.
fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> =
        origins.iter().filter_map(|o| o.trim_end_matches('/').to_ascii_lowercase().parse().ok()).collect();
    if origins.is_empty() {
        return CorsLayer::new();
    }
    CorsLayer::new().allow_origin(origins).allow_methods([Method::GET, Method::POST]).allow_headers(
        AllowHeaders::list([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-api-key"),
            HeaderName::from_static("anthropic-version"),
        ]),
    )
}
