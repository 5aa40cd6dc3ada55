//! `/v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::error::Result;
use crate::registry::Listed;
use crate::state::Server;

/// What is served.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, body = Value)))]
pub(crate) async fn list(State(server): State<Arc<Server>>) -> Json<Value> {
    let data: Vec<_> = server.registry.list().iter().map(describe).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "OpenAI", params(("model" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = Value)))]
pub(crate) async fn one(State(server): State<Arc<Server>>, Path(name): Path<String>) -> Result<Json<Value>> {
    Ok(Json(describe(&server.registry.resolve(Some(&name))?)))
}

fn describe(listed: &Listed) -> Value {
    let info = &listed.info;
    json!({
        "id": listed.name,
        "object": "model",
        // Files tell no date that means anything.
        "created": 0,
        "owned_by": "quarrel",
        "loaded": listed.loaded,
        "meta": {
            "architecture": info.architecture,
            "n_params": info.parameters,
            "format": info.format,
            "size": info.file_bytes,
            "n_ctx": info.context_length,
            "n_embd": info.embedding_length,
            "chat": info.template.is_some(),
        },
    })
}
