//! Models in Hugging Face layout: `config.json` and safetensors become the
//! metadata and tensor names that GGUF files of the same architecture have,
//! so that everything after this knows one layout only.
//!
//! Tensors are views of the mapped files where their values stay as they are;
//! rotated projections (Llama's), norms stored as differences from one
//! (Gemma's) and experts, which lie apart, are copied.
//!
//! The vocabulary (`tokenizer.json`) is the tokenizer crate's.

mod config;
mod names;
mod rope;
mod tensors;

use std::path::Path;

use gguf::{ModelFile, SafeTensors};

pub use config::is_directory;

use crate::Result;

/// Opens the model in a directory.
///
/// # Errors
/// [`crate::Error::File`] when a file is missing or damaged, [`crate::Error::UnknownArchitecture`],
/// [`crate::Error::Config`] for settings that are wrong or that this build would have
/// to ignore, [`crate::Error::Tensor`] for tensors that do not belong to the architecture.
pub fn open(dir: &Path) -> Result<ModelFile> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|source| gguf::Error::Io { path, source })?;
    from_parts(&text, &SafeTensors::open(dir)?)
}

/// As [`open`], from the text of `config.json` and open tensors.
///
/// # Errors
/// As [`open`].
pub fn from_parts(config_json: &str, safetensors: &SafeTensors) -> Result<ModelFile> {
    let config = config::Config::parse(config_json)?;
    let metadata = config.metadata()?;
    let tensors = tensors::convert(&config, safetensors)?;
    Ok(ModelFile::from_parts(metadata, tensors)?)
}
