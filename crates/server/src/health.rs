//! `/health` and `/metrics`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::state::Server;

/// Whether the process answers.
#[utoipa::path(get, path = "/health/live", tag = "Server", responses((status = 200, body = Value)))]
pub(crate) async fn live() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Whether new requests are taken.
#[utoipa::path(get, path = "/health/ready", tag = "Server",
    responses((status = 200, body = Value), (status = 503, body = Value)))]
pub(crate) async fn ready(State(server): State<Arc<Server>>) -> (StatusCode, Json<Value>) {
    if *server.draining.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "shutting down"})));
    }
    let models: Vec<_> =
        server.registry.list().into_iter().map(|m| json!({"id": m.name, "loaded": m.loaded})).collect();
    (StatusCode::OK, Json(json!({"status": "ok", "models": models})))
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "Server",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(server): State<Arc<Server>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], server.metrics.render())
}
