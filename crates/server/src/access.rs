//! What is noted of every request: a span, a line in the log (never the text
//! of a prompt), and figures. Errors take the shape of the API they belong to.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use metrics::{counter, histogram};
use opentelemetry::global;
use opentelemetry::trace::Status;
use opentelemetry_http::HeaderExtractor;
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

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
    let span = span(&id, &method, &route, &request);
    let begun = Instant::now();
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, seconds) = (response.status(), begun.elapsed().as_secs_f64());
    span.in_scope(|| tracing::info!(status = status.as_u16(), seconds, "answers"));
    span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.set_status(Status::error(status.as_str().to_owned()));
    }
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

/// The span of a request, which goes on the trace that its caller began, if any (`traceparent`).
fn span(id: &str, method: &Method, route: &str, request: &Request) -> Span {
    let method = method_label(method);
    let span = tracing::info_span!(
        "request",
        id,
        method,
        route,
        api = Dialect::of(request.uri().path()).name(),
        key = Empty,
        model = Empty,
        prompt_tokens = Empty,
        cached_tokens = Empty,
        generated_tokens = Empty,
    );
    let parent = global::get_text_map_propagator(|known| known.extract(&HeaderExtractor(request.headers())));
    // Fails only where nobody exports traces.
    let _ = span.set_parent(parent);
    // The names that OpenTelemetry's conventions have for them.
    span.set_attribute("http.request.method", method.to_owned());
    span.set_attribute("http.route", route.to_owned());
    span
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
