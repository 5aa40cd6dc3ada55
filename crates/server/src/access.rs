//! What is noted of every request: a span, a line in the log (never the text
//! of a prompt), and figures. Errors take the shape of the API they belong to.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::{counter, histogram};
use tracing::Instrument;

use crate::error::{ApiError, Dialect};
use crate::ids;

/// Requests by route, method and status.
pub(crate) const REQUESTS: &str = "quarrel_http_requests_total";
/// Seconds until the answer began.
pub(crate) const SECONDS: &str = "quarrel_http_seconds";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Notes a request and its answer.
pub(crate) async fn note(request: Request, next: Next) -> Response {
    let id = ids::unique("req");
    let method = request.method().clone();
    // Unknown paths are one route: a label must not hold what callers make up.
    let route = request.extensions().get::<MatchedPath>().map(|path| Arc::<str>::from(path.as_str()));
    let route = route.unwrap_or_else(|| "(none)".into());
    let span = tracing::info_span!("request", id, %method, route = &*route, key = tracing::field::Empty);
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, seconds) = (response.status(), begun.elapsed().as_secs_f64());
    span.in_scope(|| tracing::info!(status = status.as_u16(), seconds, "answers"));
    let labels = [
        ("route", route.to_string()),
        ("method", method_label(&method).to_owned()),
        ("status", status.as_str().to_owned()),
    ];
    counter!(REQUESTS, &labels).increment(1);
    histogram!(SECONDS, "route" => route.to_string()).record(seconds);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Callers may make up methods too.
fn method_label(method: &Method) -> &str {
    match *method {
        Method::GET | Method::POST | Method::HEAD | Method::OPTIONS => method.as_str(),
        _ => "other",
    }
}

/// Gives errors the shape that clients of the path's API expect.
pub(crate) async fn translate(request: Request, next: Next) -> Response {
    let dialect = Dialect::of(request.uri().path());
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<ApiError>() {
        Some(error) if dialect != Dialect::OpenAi => error.response(dialect),
        _ => response,
    }
}

/// A panic is a bug, but one request's.
pub(crate) fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a request's handler panicked");
    ApiError::internal().into_response()
}
