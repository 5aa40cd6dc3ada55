//! What Ollama's clients can ask for and this server does not do.

use axum::extract::MatchedPath;
use axum::http::StatusCode;

use crate::error::ApiError;

/// Says that models are not changed over HTTP.
pub(crate) async fn refuse(path: MatchedPath) -> ApiError {
    let message = format!(
        "{} is not served: models are copied, made and removed on the server's machine (quarrel list, \
         quarrel quantize, quarrel rm)",
        path.as_str()
    );
    ApiError { code: Some("unsupported"), ..ApiError::new(StatusCode::NOT_IMPLEMENTED, message) }
}
