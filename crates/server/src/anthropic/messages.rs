//! `/v1/messages` and `/v1/messages/count_tokens`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::answer::{MessageAnswer, MessageUsage, blocks};
use super::stop_reason;
use super::stream::MessageStream;
use super::types::MessagesRequest;
use crate::auth::Caller;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::ids;
use crate::state::Server;
use crate::stream::{Framing, respond};

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/messages", tag = "Anthropic", request_body = MessagesRequest,
    responses((status = 200, body = MessageAnswer), (status = 400, body = Value)))]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<MessagesRequest>,
) -> Result<Response> {
    let streams = request.stream.unwrap_or(false);
    let name = request.model.clone();
    let ask = move |model: &_| Ok(vec![request.ask(model)?]);
    let mut running = server.start(&caller, name.as_deref(), ask).await?;
    let mut answer = MessageAnswer {
        id: ids::unique("msg"),
        kind: "message",
        role: "assistant",
        model: running.lease.name.clone(),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage: MessageUsage { input_tokens: running.prompts.iter().sum(), ..MessageUsage::default() },
    };
    if streams {
        let stream = MessageStream::new(answer, running.reading);
        return Ok(respond(running, stream, Framing::Events));
    }
    let reply = running.collect().await?.pop().ok_or_else(ApiError::internal)?;
    let parts = running.reading.parts(&reply.text);
    answer.stop_reason = Some(stop_reason(reply.reason, reply.stop.as_ref(), parts.calls.len()));
    answer.usage = MessageUsage::from(&reply.stats);
    answer.content = blocks(parts);
    answer.stop_sequence = reply.stop;
    Ok(Json(answer).into_response())
}

/// How many tokens a conversation is.
#[utoipa::path(post, path = "/v1/messages/count_tokens", tag = "Anthropic", request_body = MessagesRequest,
    responses((status = 200, body = Value), (status = 400, body = Value)))]
pub(crate) async fn count_tokens(
    State(server): State<Arc<Server>>,
    Fields(request): Fields<MessagesRequest>,
) -> Result<Json<Value>> {
    let admitted = server.admit(request.model.as_deref()).await?;
    let n = server
        .compute(&admitted.lease, move |model| Ok(request.conversation()?.prepare(model)?.ids.len()))
        .await?;
    Ok(Json(json!({"input_tokens": n})))
}
