//! Where models come from: names, the cache, and the places a model is fetched from.
//!
//! A [`ModelName`] is a built-in short name, `hf:owner/repo[:quant]`, `ollama:name[:tag]` or a path.
//! [`Store::resolve`] finds it on this machine, [`Store::pull`] fetches it first where that is needed.
//!
//! # The cache
//! ```text
//! CACHE/models/<key>/entry.json      what was pulled, from where, when; every file's size and sha256
//! CACHE/models/<key>/<file>…         the model's files
//! CACHE/partial/<key>/…              a pull under way; kept when interrupted, resumed by the next pull
//! CACHE/locks/<key>.lock             held by the one process that pulls or removes <key>
//! ```
//! `<key>` is `builtin/<short name>` or `hf/<owner>/<repo>/<quant>`. A directory appears under
//! `models/` by one rename, after every hash has been checked, so an entry that exists is complete.
//!
//! # Trust
//! Nothing fetched is ever executed, installed or imported. Files are accepted by sha256 (built in, from
//! the Hub's LFS record, or from the package index by way of pip). A redirect never carries credentials
//! to another origin and never leads from a public server to a private address.

mod builtin;
mod cache;
mod config;
mod digest;
mod error;
mod fetch;
mod http;
mod hub;
mod name;
mod ollama;
mod path;
mod pip;
mod progress;
mod store;
mod wheel;

pub use cache::Entry;
pub use config::{Config, Retry, Token};
pub use digest::Digest;
pub use error::Error;
pub use name::{HubName, ModelName, OllamaName, ShortName};
pub use ollama::OllamaLayers;
pub use progress::{Event, Progress};
pub use store::{Resolved, Store};

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;
