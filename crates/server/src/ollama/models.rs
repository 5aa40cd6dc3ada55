//! `/api/tags`, `/api/ps`, `/api/show` and `/api/version`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::error::Result;
use crate::fields::{Fields, FromFields, accept, parse};
use crate::ids;
use crate::registry::{Listed, ModelInfo};
use crate::state::Server;

/// The models that are served.
#[utoipa::path(get, path = "/api/tags", tag = "Ollama", responses((status = 200, body = Value)))]
pub(crate) async fn tags(State(server): State<Arc<Server>>) -> Json<Value> {
    let models: Vec<_> = server.registry.list().iter().map(describe).collect();
    Json(json!({"models": models}))
}

/// The models that are in memory.
#[utoipa::path(get, path = "/api/ps", tag = "Ollama", responses((status = 200, body = Value)))]
pub(crate) async fn ps(State(server): State<Arc<Server>>) -> Json<Value> {
    let listed = server.registry.list();
    let models: Vec<_> = listed
        .iter()
        .filter(|listed| listed.loaded)
        .map(|listed| {
            let mut model = describe(listed);
            model["size"] = listed.info.memory_bytes.into();
            model["size_vram"] = 0.into();
            model["context_length"] = listed.info.context_length.into();
            model
        })
        .collect();
    Json(json!({"models": models}))
}

/// Which version answers.
#[utoipa::path(get, path = "/api/version", tag = "Ollama", responses((status = 200, body = Value)))]
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// Which model is meant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShowRequest {
    /// Its name.
    #[serde(default, alias = "name")]
    model: Option<String>,
}

impl FromFields for ShowRequest {
    fn from_fields(mut fields: Map<String, Value>) -> Result<Self> {
        accept(&mut fields, &["verbose"]);
        parse(fields)
    }
}

/// What a model is.
#[utoipa::path(post, path = "/api/show", tag = "Ollama", request_body = ShowRequest,
    responses((status = 200, body = Value), (status = 404, body = Value)))]
pub(crate) async fn show(
    State(server): State<Arc<Server>>,
    Fields(request): Fields<ShowRequest>,
) -> Result<Json<Value>> {
    let listed = server.registry.resolve(request.model.as_deref())?;
    let info = &*listed.info;
    let architecture = &info.architecture;
    let mut model_info = Map::new();
    model_info.insert("general.architecture".into(), architecture.as_str().into());
    model_info.insert("general.parameter_count".into(), info.parameters.into());
    model_info.insert(format!("{architecture}.context_length"), info.context_length.into());
    model_info.insert(format!("{architecture}.embedding_length"), info.embedding_length.into());
    Ok(Json(json!({
        "modelfile": "",
        "parameters": "",
        "template": info.template.as_deref().unwrap_or(""),
        "details": details(info),
        "model_info": model_info,
        "capabilities": ["completion"],
        "modified_at": ids::rfc3339(0),
    })))
}

fn describe(listed: &Listed) -> Value {
    // Ollama's clients want a digest; the name's stands for the file's, which would take long.
    let digest: String = Sha256::digest(&listed.name).iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "name": listed.name,
        "model": listed.name,
        "modified_at": ids::rfc3339(0),
        "size": listed.info.file_bytes,
        "digest": digest,
        "details": details(&listed.info),
    })
}

fn details(info: &ModelInfo) -> Value {
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": info.architecture,
        "families": [info.architecture],
        "parameter_size": size(info.parameters),
        "quantization_level": info.format,
    })
}

/// `134.52M`, as Ollama writes sizes.
fn size(parameters: u64) -> String {
    match parameters {
        0..1_000_000 => format!("{:.2}K", parameters as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", parameters as f64 / 1e6),
        _ => format!("{:.1}B", parameters as f64 / 1e9),
    }
}
