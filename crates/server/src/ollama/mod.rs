//! Ollama's API: `/api/…`.

pub(crate) mod absent;
pub(crate) mod chat;
pub(crate) mod embed;
pub(crate) mod generate;
pub(crate) mod models;
pub(crate) mod options;
pub(crate) mod pull;
mod stream;
