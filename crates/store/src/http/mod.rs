//! A small HTTP client for large files: strict addresses, guarded redirects, resumed transfers.

mod address;
mod client;
mod download;
mod url;

pub(crate) use client::{Auth, Client, Request};
pub(crate) use download::{Backoff, Download, download, verify};
pub(crate) use url::Url;
