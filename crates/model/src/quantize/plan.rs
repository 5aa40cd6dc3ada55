//! Which format each tensor of a file will have.

use gguf::format::Support;
use gguf::{Format, Metadata, TensorInfo, Value};
use regex::Regex;

use super::Recipe;
use super::mix::{self, Category, Facts, Place};
use crate::{Error, Result};

/// A format for the tensors whose names a pattern matches, whatever the recipe says.
#[derive(Debug, Clone)]
pub struct Override {
    pattern: Regex,
    format: Format,
}

impl Override {
    /// Parses `REGEX=FORMAT`; the pattern may match anywhere in the name.
    ///
    /// # Errors
    /// [`Error::Option`] for a pattern that does not parse or a format that cannot be written.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |problem: String| Error::Option { option: "tensor", problem };
        let (pattern, name) =
            text.rsplit_once('=').ok_or_else(|| wrong(format!("`{text}` is not REGEX=FORMAT")))?;
        let pattern = Regex::new(pattern).map_err(|e| wrong(format!("`{pattern}`: {e}")))?;
        let named = Format::ALL.iter().copied().find(|format| format.name().eq_ignore_ascii_case(name));
        match named.filter(|format| format.support() == Support::Full) {
            Some(format) => Ok(Self { pattern, format }),
            None => {
                let writable = Format::ALL.iter().filter(|format| format.support() == Support::Full);
                let writable: Vec<_> = writable.map(|format| format.name()).collect();
                Err(wrong(format!("`{name}` is not one of {}", writable.join(", "))))
            }
        }
    }
}

/// The format that each tensor of a file gets, in file order. Vectors, norms
/// and routers keep the format they have.
///
/// # Errors
/// [`Error::Tensor`] for a tensor that cannot be read, or whose rows are not
/// whole blocks of the format an override asks for.
pub fn formats(
    metadata: &Metadata,
    tensors: &[TensorInfo],
    recipe: Recipe,
    overrides: &[Override],
) -> Result<Vec<Format>> {
    let facts = facts(metadata, tensors)?;
    tensors.iter().map(|tensor| format_of(tensors, tensor, recipe, overrides, &facts)).collect()
}

fn format_of(
    tensors: &[TensorInfo],
    tensor: &TensorInfo,
    recipe: Recipe,
    overrides: &[Override],
    facts: &Facts,
) -> Result<Format> {
    let row_len = row_len(tensor);
    let named = overrides.iter().find(|named| named.pattern.is_match(&tensor.name));
    let format = match named {
        Some(named) if !row_len.is_multiple_of(named.format.block_len()) => {
            let problem = format!(
                "rows of {row_len} are not whole blocks of {}, which is {}",
                named.format,
                named.format.block_len()
            );
            return Err(Error::Tensor { name: tensor.name.clone(), problem });
        }
        Some(named) => named.format,
        None if !is_quantised(tensor) => tensor.format,
        // Plain floats have no mix and no blocks.
        None if recipe.base().block_len() == 1 => recipe.base(),
        None => {
            let category = Category::of(&tensor.name);
            let place = place(tensors, tensor, category, facts);
            mix::fallback(mix::format(recipe, category, place, facts), row_len)
        }
    };
    if format != tensor.format && tensor.format.support() == Support::Listed {
        let problem = format!("is {}, which this build cannot read", tensor.format);
        return Err(Error::Tensor { name: tensor.name.clone(), problem });
    }
    Ok(format)
}

/// Only matrices, and of those neither norms nor routers, which are small and sensitive.
fn is_quantised(tensor: &TensorInfo) -> bool {
    let name = tensor.name.as_str();
    tensor.shape.iter().skip(1).any(|&dim| dim > 1)
        && name.ends_with("weight")
        && !name.ends_with("_norm.weight")
        && !name.ends_with("ffn_gate_inp.weight")
}

fn place(tensors: &[TensorInfo], tensor: &TensorInfo, category: Category, facts: &Facts) -> Place {
    let row_len = row_len(tensor);
    match category {
        Category::AttnV => {
            let layers = tensors.iter().filter(|t| Category::of(&t.name) == Category::AttnV);
            let layers: Vec<_> = layers.map(|t| layer_of(&t.name)).collect();
            let index = layers.iter().filter(|&&layer| layer < layer_of(&tensor.name)).count();
            Place { index, count: layers.len(), row_len }
        }
        _ => Place { index: layer_of(&tensor.name).unwrap_or(0), count: facts.n_layers, row_len },
    }
}

/// Elements a row.
fn row_len(tensor: &TensorInfo) -> usize {
    tensor.shape.first().map_or(0, |&dim| usize::try_from(dim).unwrap_or(usize::MAX))
}

/// `N` of `blk.N.…`.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn facts(metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Facts> {
    let key = "general.architecture";
    let architecture = gguf::metadata::require(key, metadata.str(key)?)?;
    // Some models give a list, one for each layer; the first speaks for all.
    let number = |suffix: &str| -> Result<Option<usize>> {
        let key = format!("{architecture}.{suffix}");
        Ok(match metadata.get(&key) {
            Some(Value::Array(_)) => {
                metadata.i64s(&key)?.and_then(|list| usize::try_from(*list.first()?).ok())
            }
            _ => metadata.u32(&key)?.map(|x| x as usize),
        })
    };
    let heads = number("attention.head_count")?.unwrap_or(0);
    let kv_heads = number("attention.head_count_kv")?.unwrap_or(heads);
    Ok(Facts {
        n_layers: number("block_count")?.unwrap_or(0),
        n_gqa: heads.checked_div(kv_heads).unwrap_or(0),
        n_experts: number("expert_count")?.unwrap_or(0),
        tied: tensors.iter().all(|tensor| tensor.name != "output.weight"),
    })
}
