//! HTTP in front of the engine.
//!
//! A request passes the checks of `router.rs` (who asks, from where), becomes a
//! type that cannot be wrong (`fields.rs` and each API's own types), gets a
//! place and a model (`state.rs`, `registry.rs`), and is answered whole or
//! piece by piece (`generation.rs`, `stream.rs`). Each API has a folder.

mod access;
mod anthropic;
mod auth;
mod bias;
mod config;
mod docs;
mod embedding;
mod error;
mod fields;
mod form;
mod generation;
mod guard;
mod health;
mod ids;
mod metrics;
mod ollama;
mod openai;
mod pace;
mod prompt;
mod prompted;
mod pulls;
mod reading;
mod record;
mod registry;
mod router;
mod sampling;
mod serve;
mod state;
mod stream;
mod tls;
mod tokens;
mod tools;
mod web;

pub use auth::{Keys, KeysError};
pub use config::{Config, TlsFiles};
pub use docs::openapi;
pub use metrics::install_metrics;
pub use pulls::{Open, Pulls};
pub use registry::{LoadError, Model, ModelInfo, ModelSource, Registry, RegistryError, Residency};
pub use serve::{Bound, Error, Shutdown, serve};
