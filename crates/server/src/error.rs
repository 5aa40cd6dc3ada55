//! What a caller is told when a request cannot be served, in each API's own shape.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The result of anything that answers a request.
pub type Result<T, E = ApiError> = std::result::Result<T, E>;

/// Least and most seconds that a caller who was turned away is told to wait.
const RETRY_AFTER: (u64, u64) = (1, 3600);

/// A refusal. Its message never holds a path or an address of this machine.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// What was wrong and what to do.
    pub message: String,
    /// The field that was wrong.
    pub param: Option<String>,
    /// A word for programs, such as `model_not_found`.
    pub code: Option<&'static str>,
    /// When it may be worth trying again, where that can be told.
    pub retry_after: Option<Duration>,
}

impl ApiError {
    /// An error of `status`.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None, retry_after: None }
    }

    /// The request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The field `param` of the request is wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad_request(message) }
    }

    /// A field that is known, but whose value asks for something that is not there.
    pub fn unsupported(param: &str, what: &str) -> Self {
        Self { code: Some("unsupported"), ..Self::field(param, format!("{param}: {what} is not supported")) }
    }

    /// No model of that name is served.
    pub fn no_such_model(name: &str, served: &[String]) -> Self {
        let message = format!("there is no model `{name}` here; served are: {}", served.join(", "));
        Self {
            status: StatusCode::NOT_FOUND,
            message,
            param: Some("model".into()),
            code: Some("model_not_found"),
            retry_after: None,
        }
    }

    /// More is asked for than can be served now.
    pub fn overloaded() -> Self {
        Self {
            code: Some("overloaded"),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too many requests are running; try again later")
        }
    }

    /// The request cannot begin within the time that requests may wait.
    pub fn would_wait(limit: Duration) -> Self {
        let message =
            format!("the request cannot start within {:.0} s; try again later", limit.as_secs_f64());
        Self { code: Some("overloaded"), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// Tells a caller that was turned away for want of a place when to come again.
    #[must_use]
    pub fn or_retry_after(mut self, wait: Duration) -> Self {
        if self.code == Some("overloaded") && self.retry_after.is_none() {
            self.retry_after = Some(wait);
        }
        self
    }

    /// Something failed that the caller has no part in; the log has the details.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "an internal error; the server's log says more")
    }

    /// The server is about to end.
    pub fn stopping() -> Self {
        Self {
            code: Some("shutting_down"),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is shutting down")
        }
    }

    /// The request took longer than requests may.
    pub fn timed_out(limit: Duration) -> Self {
        let message = format!("the request was not finished within {} s", limit.as_secs());
        Self { code: Some("timeout"), ..Self::new(StatusCode::GATEWAY_TIMEOUT, message) }
    }

    /// The class of error, in OpenAI's words.
    fn openai_type(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_client_error() => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The class of error, in Anthropic's words.
    fn anthropic_type(&self) -> &'static str {
        match self.status {
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::GATEWAY_TIMEOUT => "timeout_error",
            status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => "api_error",
            _ => self.openai_type(),
        }
    }

    /// The body, as `dialect` has it.
    pub fn body(&self, dialect: Dialect) -> Value {
        match dialect {
            Dialect::OpenAi => json!({"error": {
                "message": self.message,
                "type": self.openai_type(),
                "param": self.param,
                "code": self.code,
            }}),
            Dialect::Anthropic => json!({
                "type": "error",
                "error": {"type": self.anthropic_type(), "message": self.message},
            }),
            Dialect::Ollama => json!({"error": self.message}),
        }
    }

    /// The whole answer, as `dialect` has it.
    pub fn response(&self, dialect: Dialect) -> Response {
        let mut response = (self.status, Json(self.body(dialect))).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let (least, most) = RETRY_AFTER;
            let wait = self.retry_after.unwrap_or_default().as_secs_f64().ceil() as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.clamp(least, most)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    /// In OpenAI's shape; `dialect::translate` rewrites it for the other APIs.
    fn into_response(self) -> Response {
        let mut response = self.response(Dialect::OpenAi);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<engine::Error> for ApiError {
    fn from(error: engine::Error) -> Self {
        use engine::Error;
        let message = error.to_string();
        match error {
            Error::Parameter { name, .. } => Self::field(name, message),
            Error::ContextExceeded { .. } => {
                Self { code: Some("context_length_exceeded"), ..Self::bad_request(message) }
            }
            Error::EmptyPrompt
            | Error::UnknownToken { .. }
            | Error::NeverFits { .. }
            | Error::Constraint(_)
            | Error::NoEmbeddings
            | Error::NotFinite
            | Error::NoToken => Self::bad_request(message),
            Error::Busy { .. } => Self::overloaded(),
            Error::Overdue { waited } => Self::would_wait(waited),
            Error::Stopped => Self::stopping(),
            // A failed step may name files.
            _ => {
                tracing::error!(error = message, "a request failed");
                Self::internal()
            }
        }
    }
}

/// Whose API a path belongs to, which decides the shape of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's, and our own.
    OpenAi,
    /// `/v1/messages`.
    Anthropic,
    /// `/api/…`.
    Ollama,
}

impl Dialect {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
        }
    }

    /// The API of a path.
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") {
            Self::Anthropic
        } else if path.starts_with("/api/") {
            Self::Ollama
        } else {
            Self::OpenAi
        }
    }
}
