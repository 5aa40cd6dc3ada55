//! Quantising a model file: a recipe decides each tensor's format, and the
//! tensors are converted one slab of rows at a time, so that no model has to
//! fit in memory. Quantised input is dequantised first.

mod mix;
mod plan;
mod recipe;
mod rows;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use gguf::{Bytes, Format, ModelFile, TensorInfo, Writer};

pub use plan::{Override, formats};
pub use recipe::Recipe;

use crate::{Error, Result};

/// How far a conversion is.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The tensor in work.
    pub tensor: &'a str,
    /// Its format in the input.
    pub from: Format,
    /// Its format in the output.
    pub to: Format,
    /// Input bytes converted, this tensor's included as far as it is.
    pub done: u64,
    /// Input bytes in all.
    pub total: u64,
}

/// Quantises `file` to `out` on `threads` threads. The file appears under its
/// name when it is complete. `progress` may end the conversion, which then
/// leaves nothing behind.
///
/// # Errors
/// [`Error::Cancelled`]; [`Error::Tensor`] for what cannot be converted, values that are not
/// finite among it; [`Error::File`] when writing fails.
pub fn quantize_file(
    file: &ModelFile,
    out: &Path,
    recipe: Recipe,
    overrides: &[Override],
    threads: usize,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let infos = planned(file, recipe, overrides)?;
    let io = |source| gguf::Error::Io { path: out.to_owned(), source };
    let partial = Partial { path: with_suffix(out) };
    let sink = BufWriter::new(File::create(&partial.path).map_err(io)?);
    let mut sink = convert(file, sink, recipe, infos, threads, progress)?;
    sink.flush().map_err(io)?;
    std::fs::rename(&partial.path, out).map_err(io)?;
    Ok(())
}

/// Quantises `file` in memory, for models that are loaded at once.
///
/// # Errors
/// As [`quantize_file`].
pub fn quantize(
    file: &ModelFile,
    recipe: Recipe,
    overrides: &[Override],
    threads: usize,
) -> Result<ModelFile> {
    let infos = planned(file, recipe, overrides)?;
    let bytes = convert(file, Vec::new(), recipe, infos, threads, &mut |_| ControlFlow::Continue(()))?;
    Ok(ModelFile::from_bytes(Bytes::from(bytes))?)
}

/// The tensors as they will be.
fn planned(file: &ModelFile, recipe: Recipe, overrides: &[Override]) -> Result<Vec<TensorInfo>> {
    let mut infos: Vec<TensorInfo> = file.tensors.iter().map(|tensor| tensor.info()).collect();
    let formats = formats(&file.metadata, &infos, recipe, overrides)?;
    infos.iter_mut().zip(formats).for_each(|(info, format)| info.format = format);
    Ok(infos)
}

/// Converts to any writer; see [`quantize_file`].
fn convert<W: Write>(
    file: &ModelFile,
    sink: W,
    recipe: Recipe,
    infos: Vec<TensorInfo>,
    threads: usize,
    progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<W> {
    let mut metadata = file.metadata.clone();
    metadata.insert("general.quantization_version", 2u32);
    metadata.insert("general.file_type", recipe.file_type());
    let formats: Vec<Format> = infos.iter().map(|info| info.format).collect();
    let mut writer = Writer::new(sink, &metadata, infos)?;
    let (mut done, total) = (0, file.tensor_bytes());
    for (tensor, to) in file.tensors.iter().zip(formats) {
        rows::convert(tensor, to, threads, &mut |read, data| {
            writer.write(&tensor.name, data)?;
            done += read as u64;
            match progress(Progress { tensor: &tensor.name, from: tensor.format, to, done, total }) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(Error::Cancelled),
            }
        })?;
        // Mapped pages of tensors that are done would else count as this process's memory.
        tensor.data.release()?;
    }
    Ok(writer.finish()?)
}

fn with_suffix(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// A file that goes away unless it was renamed.
struct Partial {
    path: PathBuf,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is nothing to remove; otherwise a leftover is all that can go wrong.
        let _ = std::fs::remove_file(&self.path);
    }
}
