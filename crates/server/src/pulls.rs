//! Models fetched because a caller asked for them: what may be asked for.
//!
//! A caller names a model as the store knows models; addresses and paths are
//! refused, so that nobody can make the server fetch from elsewhere or open
//! files of its machine.

use axum::http::StatusCode;
use store::{HubName, ModelName, Resolved, Store};

use crate::error::{ApiError, Result};
use crate::registry::{LoadError, ModelSource, shorten};

/// Makes a source of a model that is on this machine.
pub type Open = Box<dyn Fn(&Resolved) -> Result<Box<dyn ModelSource>, LoadError> + Send + Sync>;

/// What a server needs to fetch models.
pub struct Pulls {
    /// Where models come from and are kept.
    pub store: Store,
    /// Opens them.
    pub open: Open,
}

impl std::fmt::Debug for Pulls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulls").field("store", &self.store).finish_non_exhaustive()
    }
}

/// How Ollama's clients begin the name of a model on the Hub.
const HUB_HOSTS: [&str; 2] = ["hf.co/", "huggingface.co/"];

/// The model that a caller means.
///
/// # Errors
/// 400 for what is no name, 404 for a name that nobody knows.
pub(crate) fn parse_name(text: &str) -> Result<ModelName> {
    let refuse = |reason: &str| {
        let message = format!(
            "`{}` cannot be pulled: {reason}; a built-in name, hf:OWNER/REPO[:QUANT] (or \
             hf.co/OWNER/REPO[:QUANT]), or ollama:NAME[:TAG] can be",
            shorten(text)
        );
        ApiError::field("model", message)
    };
    if let Some(rest) = HUB_HOSTS.iter().find_map(|host| text.strip_prefix(host)) {
        let rest = rest.strip_suffix(":latest").unwrap_or(rest);
        let (id, quant) = rest.split_once(':').map_or((rest, None), |(id, quant)| (id, Some(quant)));
        let (owner, repo) = id.split_once('/').ok_or_else(|| refuse("a part of it is missing"))?;
        return HubName::new(owner, repo, quant).map(ModelName::Hub).map_err(refuse);
    }
    let bare = match text.starts_with("ollama:") {
        true => text,
        false => text.strip_suffix(":latest").unwrap_or(text),
    };
    match bare.parse() {
        Ok(ModelName::Path(_)) => Err(refuse("it is an address or a path")),
        Ok(name) => Ok(name),
        Err(store::Error::BadName { reason, .. }) => Err(refuse(reason)),
        Err(_) => Err(ApiError { status: StatusCode::NOT_FOUND, ..refuse("there is no such name") }),
    }
}

/// What a caller is told of a pull that failed; the log has the details.
impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        use store::Error;
        tracing::warn!(%error, "a pull failed");
        match &error {
            Error::NotFound { .. } | Error::Denied { .. } | Error::Ollama { .. } | Error::NoOllama => {
                Self::new(StatusCode::NOT_FOUND, "there is no such model, or it is not open to this server")
            }
            // Both tell what the repository has.
            Error::NoSuchFile { .. } | Error::Ambiguous { .. } => Self::field("model", error.to_string()),
            Error::DiskFull { .. } => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "the server's disk is full; the pull can be resumed",
            ),
            Error::Cancelled => Self::stopping(),
            Error::Permission { .. } | Error::Io { .. } | Error::BadEntry { .. } | Error::Path { .. } => {
                Self::internal()
            }
            _ => Self::new(
                StatusCode::BAD_GATEWAY,
                "the model could not be fetched; the server's log says why, and the pull can be resumed",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood() {
        for (text, meant) in [
            ("smollm2-135m", "smollm2-135m"),
            ("smollm2-135m:latest", "smollm2-135m"),
            ("hf:owner/repo:Q4_0", "hf:owner/repo:Q4_0"),
            ("hf.co/owner/repo:Q4_0", "hf:owner/repo:Q4_0"),
            ("huggingface.co/owner/repo:latest", "hf:owner/repo"),
            ("ollama:llama3.2:latest", "ollama:llama3.2:latest"),
        ] {
            assert_eq!(parse_name(text).expect(text).to_string(), meant);
        }
    }

    #[test]
    fn addresses_and_paths_are_not_names() {
        for (text, status) in [
            ("http://169.254.169.254/latest/meta-data", 400),
            ("https://evil.example/m.gguf", 400),
            ("hf.co/../../x", 400),
            ("hf.co/owner", 400),
            ("hf:http://x/y", 400),
            ("/etc/passwd", 400),
            ("./m.gguf", 400),
            ("m.gguf", 400),
            ("ollama:../../etc/passwd", 400),
            ("evil.example/owner/model", 400),
            ("", 400),
            ("no-such-model", 404),
        ] {
            let error = parse_name(text).expect_err(text);
            assert_eq!(error.status.as_u16(), status, "{text}: {error}");
        }
    }
}
