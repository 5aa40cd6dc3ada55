//! Architectures: each file turns metadata into a [`ModelConfig`], nothing else.
//!
//! To add one, write a file with a `describe` function and a row in the table.

mod common;
mod gemma;
mod granite;
mod llama;
mod phi3;
mod qwen;
mod rotary;
mod smollm3;

use gguf::ModelFile;

use crate::source::Source;
use crate::{Error, ModelConfig, Result};

type Describe = fn(Source<'_>) -> Result<ModelConfig>;

const ARCHITECTURES: &[(&str, Describe)] = &[
    ("gemma2", gemma::describe_2),
    ("gemma3", gemma::describe_3),
    ("granite", granite::describe),
    ("llama", llama::describe),
    ("phi3", phi3::describe),
    ("qwen2", qwen::describe_2),
    ("qwen3", qwen::describe_3),
    ("qwen3moe", qwen::describe_3_moe),
    ("smollm3", smollm3::describe),
];

/// The values of `general.architecture` that load.
pub fn supported_architectures() -> impl ExactSizeIterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}

impl ModelConfig {
    /// Reads a file's hyper-parameters. No tensor data is touched but rotary factors.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`]; [`Error::Config`] and [`Error::File`] for
    /// hyper-parameters that are wrong or missing.
    pub fn from_file(file: &ModelFile) -> Result<Self> {
        let key = "general.architecture";
        let architecture = gguf::metadata::require(key, file.metadata.str(key)?)?;
        match ARCHITECTURES.iter().find(|(name, _)| *name == architecture) {
            Some((_, describe)) => describe(Source { file, architecture }),
            None => Err(Error::UnknownArchitecture {
                found: architecture.to_owned(),
                supported: supported_architectures().collect::<Vec<_>>().join(", "),
            }),
        }
    }
}
