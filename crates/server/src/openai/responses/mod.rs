//! `/v1/responses`: OpenAI's newer way to ask, for text and calls. Nothing is stored, so
//! that each request holds the whole conversation.

mod input;
mod object;
mod stream;
pub(crate) mod types;

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use self::object::{Head, Output, items, status};
use self::stream::ResponseStream;
use self::types::ResponsesRequest;
use crate::auth::Caller;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::state::Server;
use crate::stream::{Framing, respond};

/// Continues a conversation.
#[utoipa::path(post, path = "/v1/responses", tag = "OpenAI", request_body = ResponsesRequest,
    responses((status = 200, body = Value), (status = 400, body = Value)))]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(caller): Extension<Caller>,
    Fields(request): Fields<ResponsesRequest>,
) -> Result<Response> {
    let streams = request.response.stream.unwrap_or(false);
    let name = request.response.model.clone();
    let mut head = Head::new(&request.response, &request.sampling);
    let ask = move |model: &_| Ok(vec![request.ask(model)?]);
    let mut running = server.start(&caller, name.as_deref(), ask).await?;
    head.model.clone_from(&running.lease.name);
    if streams {
        let stream = ResponseStream::new(head, running.reading);
        return Ok(respond(running, stream, Framing::Events));
    }
    let reply = running.collect().await?.pop().ok_or_else(ApiError::internal)?;
    let items = items(running.reading.parts(&reply.text), status(reply.reason));
    let output = Output { items, reason: reply.reason, stats: reply.stats };
    Ok(Json(head.finished(&output)).into_response())
}
