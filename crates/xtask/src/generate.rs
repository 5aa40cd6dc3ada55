//! `cargo xtask generate-model`: a random model of a real model's shape.
//!
//! It needs nothing of the workspace, so that the built program makes models
//! on machines that have no checkout.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use model::quantize::Recipe;
use model::testing::{ShapeOptions, shape_names, write_shape};

use crate::error::{Error, Result, at};

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// The model whose shape to take
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(shape_names()))]
    shape: String,
    /// How to quantise it, as in `quarrel quantize`
    #[arg(long, value_name = "FORMAT", default_value = "Q4_0", value_parser = recipe)]
    format: Recipe,
    /// Layers, instead of the real model's
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Tokens in the vocabulary, instead of the real model's
    #[arg(long, value_name = "N")]
    vocab: Option<usize>,
    /// The same seed gives the same file
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The GGUF file to write
    out: PathBuf,
}

fn recipe(name: &str) -> Result<Recipe, String> {
    Recipe::from_name(name).ok_or_else(|| {
        let known: Vec<_> = Recipe::ALL.iter().map(|recipe| recipe.name()).collect();
        format!("known are {}", known.join(", "))
    })
}

/// Writes the model; what could not be finished is removed.
///
/// # Errors
/// Sizes that cannot be, a file that cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let Args { layers, vocab, seed, .. } = *args;
    let options = ShapeOptions { recipe: args.format, layers, vocab, seed };
    let written = write(&args.out, &args.shape, &options);
    if written.is_err() {
        // Nothing better can be done where this fails too.
        let _ = std::fs::remove_file(&args.out);
    }
    written
}

fn write(path: &Path, shape: &str, options: &ShapeOptions) -> Result<()> {
    let file = File::create(path).map_err(at(path))?;
    let failed = |source| Error::Generate { path: path.to_owned(), source: Box::new(source) };
    write_shape(BufWriter::with_capacity(1 << 20, file), shape, options).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(out: PathBuf, layers: usize) -> Args {
        let shape = "smollm2-135m".to_owned();
        Args { shape, format: Recipe::Q4_0, layers: Some(layers), vocab: Some(300), seed: 1, out }
    }

    #[test]
    fn a_file_appears_only_when_it_is_complete() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("model.gguf");
        assert!(run(&args(path.clone(), 0)).is_err());
        assert!(!path.exists());
        run(&args(path.clone(), 1)).expect("a small model");
        assert!(std::fs::metadata(&path).expect("it is there").len() > 1 << 20);
    }

    #[test]
    fn names_of_formats() {
        assert_eq!(recipe("q4_k"), Ok(Recipe::Q4_K_M));
        assert!(recipe("q4").expect_err("no such").contains("Q4_0"));
    }
}
