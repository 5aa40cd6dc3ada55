//! The models that speed is measured on: fixtures, and one of them in other
//! formats.

use std::path::{Path, PathBuf};

use crate::error::{Result, at};
use crate::fixtures;
use crate::quarrel::Quarrel;

/// The fixture that is written in other formats.
pub const SMOLLM2: &str = "smollm2-135m.gguf";

/// A model by name.
struct Model {
    name: &'static str,
    fixture: &'static str,
    /// The format to write the fixture in first; as it is if absent.
    format: Option<&'static str>,
}

const MODELS: [Model; 8] = [
    Model { name: "smollm2-135m-q4_0", fixture: SMOLLM2, format: Some("Q4_0") },
    // The fixture's own format.
    Model { name: "smollm2-135m-q4_1", fixture: SMOLLM2, format: None },
    Model { name: "smollm2-135m-q8_0", fixture: SMOLLM2, format: Some("Q8_0") },
    Model { name: "smollm2-135m-q4_k_m", fixture: SMOLLM2, format: Some("Q4_K_M") },
    Model { name: "smollm2-135m-bf16", fixture: SMOLLM2, format: Some("BF16") },
    Model { name: "gemma3-270m", fixture: "gemma3-270m.gguf", format: None },
    Model { name: "qwen2.5-coder-0.5b", fixture: "qwen2.5-coder-0.5b.gguf", format: None },
    Model { name: "qwen2.5-coder-1.5b", fixture: "qwen2.5-coder-1.5b.gguf", format: None },
];

/// What is measured when nobody says otherwise.
pub const DEFAULT: &str =
    "smollm2-135m-q4_0,smollm2-135m-q4_1,smollm2-135m-q8_0,smollm2-135m-q4_k_m,smollm2-135m-bf16";

/// Accepts the names of models on a command line.
pub fn parser() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(MODELS.map(|model| model.name))
}

/// The files of `names`, in their order; formats are written anew by `quarrel`
/// into `target/compare` each time, so that they are never those of an older one.
///
/// # Errors
/// A fixture that cannot be fetched, a format that cannot be written.
pub fn make(root: &Path, quarrel: &Quarrel, names: &[String]) -> Result<Vec<PathBuf>> {
    let dir = root.join("target/compare");
    std::fs::create_dir_all(&dir).map_err(at(&dir))?;
    let mut files = Vec::new();
    for model in names.iter().filter_map(|name| MODELS.iter().find(|model| model.name == name)) {
        let fixture = fixtures::fetch(&[model.fixture])?.join(model.fixture);
        let Some(format) = model.format else {
            files.push(fixture);
            continue;
        };
        let file = dir.join(format!("{}.gguf", model.name));
        quarrel.quantize(&fixture, &file, format)?;
        files.push(file);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_names_models() {
        assert_eq!(DEFAULT.split(',').count(), 5);
        for name in DEFAULT.split(',') {
            assert!(MODELS.iter().any(|model| model.name == name), "{name}");
        }
    }
}
