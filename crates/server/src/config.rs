//! How the server is set up.

use std::time::Duration;

use crate::auth::Keys;
use crate::pulls::Pulls;

/// Everything that is decided before the server starts.
#[derive(Debug)]
pub struct Config {
    /// Who may ask; empty: everybody who can connect.
    pub keys: Keys,
    /// Host names, besides `localhost` and plain addresses, under which the server is reached.
    pub allowed_hosts: Vec<String>,
    /// Origins (`https://chat.example`) whose pages may ask.
    pub allowed_origins: Vec<String>,
    /// Requests that may be worked on at once; more are answered with 429.
    pub max_requests: usize,
    /// Most bytes of a request's body.
    pub max_body: usize,
    /// Longest time a request may take.
    pub timeout: Duration,
    /// Longest time a request may wait to start; one that would wait longer is answered with 503.
    pub queue_time: Duration,
    /// How long running requests may go on after a shutdown was asked for.
    pub drain: Duration,
    /// Certificate chain and key, both PEM.
    pub tls: Option<TlsFiles>,
    /// Lets callers fetch models; `None`: they may not.
    pub pulls: Option<Pulls>,
}

/// What TLS needs, as PEM text.
#[derive(Clone)]
pub struct TlsFiles {
    /// The chain of certificates, the server's own first.
    pub certificates: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles").finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            max_requests: 64,
            max_body: 4 << 20,
            timeout: Duration::from_secs(3600),
            queue_time: Duration::from_secs(300),
            drain: Duration::from_secs(30),
            tls: None,
            pulls: None,
        }
    }
}
