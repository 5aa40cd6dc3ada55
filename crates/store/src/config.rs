//! What the caller decides: directories, endpoint, credentials, patience.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Everything a [`crate::Store`] needs to know. The library reads no environment variable itself
/// (the HTTP client honours the usual proxy variables, and pip its own).
#[derive(Debug, Clone)]
pub struct Config {
    /// Root of the cache; created when first written to.
    pub cache_dir: PathBuf,
    /// Base address of the Hugging Face Hub or a mirror of it, without a trailing slash.
    pub hf_endpoint: String,
    /// Token for private and gated repositories; sent to `hf_endpoint`'s origin only.
    pub hf_token: Option<Token>,
    /// The cache of Hugging Face's own tools (`…/huggingface/hub`), if there is one: files found there are
    /// copied instead of downloaded. It is only read.
    pub hf_cache: Option<PathBuf>,
    /// The Python whose pip is asked for packages.
    pub python: PathBuf,
    /// Ollama's model directory (the one holding `manifests` and `blobs`), if there is one.
    pub ollama_dir: Option<PathBuf>,
    /// Extra root certificates (PEM) to trust instead of the platform's.
    pub ca_file: Option<PathBuf>,
    /// How failed transfers are repeated.
    pub retry: Retry,
}

impl Config {
    /// The usual places, with the cache in `cache_dir`.
    pub fn new(cache_dir: impl Into<PathBuf>) -> Self {
        Config {
            cache_dir: cache_dir.into(),
            hf_endpoint: "https://huggingface.co".to_owned(),
            hf_token: None,
            hf_cache: None,
            python: PathBuf::from(if cfg!(windows) { "python" } else { "python3" }),
            ollama_dir: None,
            ca_file: None,
            retry: Retry::default(),
        }
    }
}

/// How often and how patiently a failed request is repeated.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Failures in a row, without a byte received between them, before giving up.
    pub attempts: u32,
    /// Wait before the first repetition; doubled each time.
    pub first_wait: Duration,
    /// No wait is longer; a server that asks for more (`Retry-After`) ends the pull with an error.
    pub longest_wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 5, first_wait: Duration::from_secs(1), longest_wait: Duration::from_secs(60) }
    }
}

/// A secret that does not show up in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a token. White space around it (as in a file's last line) is dropped.
    pub fn new(token: &str) -> Self {
        Token(token.trim().to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
