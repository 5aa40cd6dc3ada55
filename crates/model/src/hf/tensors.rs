//! Safetensors as GGUF tensors.

use std::collections::BTreeMap;

use gguf::{Bytes, Format, SafeTensors, Tensor};

use super::config::Config;
use super::names::{Change, Target};
use super::rope::Rope;
use crate::{Error, Result};

/// Experts of one stack found so far.
type Stacks<'a> = BTreeMap<String, BTreeMap<usize, &'a Tensor>>;

/// Every tensor under its GGUF name.
///
/// # Errors
/// [`Error::Tensor`] for one that does not belong, or whose shape does not suit its change.
pub(super) fn convert(config: &Config, safetensors: &SafeTensors) -> Result<Vec<Tensor>> {
    let mut stacks = Stacks::new();
    let mut result = vec![];
    for tensor in &safetensors.tensors {
        match config.family.target(&tensor.name, config.tied()) {
            None => {
                let problem = "is not part of this architecture; ignoring it would change the model";
                return Err(wrong(tensor, problem));
            }
            Some(Target::Surplus) => {}
            Some(Target::Expert { stack, expert }) => {
                stacks.entry(stack).or_default().insert(expert, tensor);
            }
            Some(Target::Whole(name, change)) => {
                let (format, data) = changed(config, tensor, change)?;
                result.push(Tensor { name, shape: tensor.shape.clone(), format, data });
            }
        }
    }
    for (name, experts) in stacks {
        result.push(stack(name, &experts, config.n_experts()?)?);
    }
    for (name, values) in Rope::read(config)?.factors {
        result.push(vector(name, &values));
    }
    Ok(result)
}

fn wrong(tensor: &Tensor, problem: impl Into<String>) -> Error {
    Error::Tensor { name: tensor.name.clone(), problem: problem.into() }
}

fn changed(config: &Config, tensor: &Tensor, change: Change) -> Result<(Format, Bytes)> {
    let heads = match change {
        Change::None => return Ok((tensor.format, aligned(&tensor.data))),
        Change::PlusOne => {
            let mut values = vec![0.0; tensor.elements()];
            tensor.format.dequantize(&tensor.data, &mut values)?;
            values.iter_mut().for_each(|x| *x += 1.0);
            return Ok((Format::F32, bytes_of(&values)));
        }
        Change::PairQ => config.required("num_attention_heads")?,
        Change::PairK => match config.u32("num_key_value_heads")? {
            None => config.required("num_attention_heads")?,
            Some(heads) => heads,
        },
    };
    Ok((tensor.format, neighbours(tensor, heads as usize)?))
}

/// Safetensors promises no alignment; kernels want at least that of their elements.
fn aligned(data: &Bytes) -> Bytes {
    match data.as_ptr().align_offset(align_of::<f32>()) {
        0 => data.clone(),
        _ => data.to_vec().into(),
    }
}

/// Reorders each head's rows from halves (`i`, `i + n / 2`) to neighbours (`2i`, `2i + 1`).
fn neighbours(tensor: &Tensor, heads: usize) -> Result<Bytes> {
    // A bias is a matrix of rows of one.
    let rows = if tensor.shape.len() == 1 { tensor.row_len() } else { tensor.rows() };
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        return Err(wrong(tensor, format!("has {rows} rows, which are no pairs in {heads} heads")));
    }
    let (dim, row_bytes) = (rows / heads, tensor.data.len() / rows);
    let mut out = Vec::with_capacity(tensor.data.len());
    for head in tensor.data.chunks_exact(dim * row_bytes) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks_exact(row_bytes).zip(second.chunks_exact(row_bytes)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    Ok(out.into())
}

/// One tensor of all experts, in order.
fn stack(name: String, experts: &BTreeMap<usize, &Tensor>, n_experts: u32) -> Result<Tensor> {
    let missing = |problem: String| Error::Tensor { name: name.clone(), problem };
    if experts.len() != n_experts as usize || experts.keys().copied().ne(0..experts.len()) {
        return Err(missing(format!("has {} of {n_experts} experts", experts.len())));
    }
    let Some(first) = experts.get(&0) else { return Err(missing("has no experts".into())) };
    let mut data = Vec::with_capacity(first.data.len().saturating_mul(experts.len()));
    for tensor in experts.values() {
        if tensor.shape != first.shape || tensor.format != first.format {
            return Err(wrong(tensor, "differs from the first expert in shape or format"));
        }
        data.extend_from_slice(&tensor.data);
        tensor.data.release()?;
    }
    let mut shape = first.shape.clone();
    shape.push(u64::from(n_experts));
    Ok(Tensor { name, shape, format: first.format, data: data.into() })
}

fn vector(name: &str, values: &[f32]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        shape: vec![values.len() as u64],
        format: Format::F32,
        data: bytes_of(values),
    }
}

fn bytes_of(values: &[f32]) -> Bytes {
    values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into()
}
