//! Typed reading of a file's metadata under its architecture's prefix, and of
//! the few tensors that are configuration.

use std::sync::Arc;

use gguf::{Format, ModelFile, Value};

use crate::{Error, Result};

/// A file and the prefix of its hyper-parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    /// The open file.
    pub file: &'a ModelFile,
    /// `general.architecture`.
    pub architecture: &'a str,
}

impl Source<'_> {
    /// The full key of `suffix`.
    pub fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    /// The error for a hyper-parameter that no model can have.
    pub fn wrong(&self, suffix: &str, found: impl ToString, problem: impl Into<String>) -> Error {
        Error::Config { key: self.key(suffix), found: found.to_string(), problem: problem.into() }
    }

    /// An optional count.
    pub fn u32(&self, suffix: &str) -> Result<Option<u32>> {
        Ok(self.file.metadata.u32(&self.key(suffix))?)
    }

    /// A count that must be there.
    pub fn required_u32(&self, suffix: &str) -> Result<u32> {
        Ok(gguf::metadata::require(&self.key(suffix), self.u32(suffix)?)?)
    }

    /// A dimension: at least 1, and small enough that products of a few cannot overflow.
    pub fn dimension(&self, suffix: &str) -> Result<Option<usize>> {
        self.u32(suffix)?.map(|found| self.check_dimension(suffix, found.into())).transpose()
    }

    fn check_dimension(&self, suffix: &str, found: i64) -> Result<usize> {
        const MOST: i64 = 1 << 24;
        match found {
            1..=MOST => Ok(found as usize),
            _ => Err(self.wrong(suffix, found, format!("must be from 1 to {MOST}"))),
        }
    }

    /// A dimension given once for all layers or once for each.
    pub fn per_layer(&self, suffix: &str, n_layers: usize) -> Result<Option<Vec<usize>>> {
        let key = self.key(suffix);
        let Some(Value::Array(_)) = self.file.metadata.get(&key) else {
            return Ok(self.dimension(suffix)?.map(|found| vec![found; n_layers]));
        };
        let found = gguf::metadata::require(&key, self.file.metadata.i64s(&key)?)?;
        if found.len() != n_layers {
            let problem = format!("must have one entry for each of the {n_layers} layers");
            return Err(self.wrong(suffix, format!("{} entries", found.len()), problem));
        }
        found.into_iter().map(|x| self.check_dimension(suffix, x)).collect::<Result<_>>().map(Some)
    }

    /// An optional float; if it is there it is finite.
    pub fn f32(&self, suffix: &str) -> Result<Option<f32>> {
        match self.file.metadata.f32(&self.key(suffix))? {
            Some(found) if !found.is_finite() => Err(self.wrong(suffix, found, "must be a finite number")),
            found => Ok(found),
        }
    }

    /// An optional float greater than zero.
    pub fn positive(&self, suffix: &str) -> Result<Option<f32>> {
        match self.f32(suffix)? {
            Some(found) if found <= 0.0 => Err(self.wrong(suffix, found, "must be greater than 0")),
            found => Ok(found),
        }
    }

    /// As [`Source::positive`], where 0 stands for "absent".
    pub fn positive_or_zero(&self, suffix: &str) -> Result<Option<f32>> {
        match self.f32(suffix)? {
            Some(0.0) => Ok(None),
            Some(found) if found < 0.0 => Err(self.wrong(suffix, found, "must not be negative")),
            found => Ok(found),
        }
    }

    /// Whether the file has a tensor of that name.
    pub fn has(&self, tensor: &str) -> bool {
        self.file.tensor(tensor).is_some()
    }

    /// Whether layer `layer` has `blk.N.{suffix}`.
    pub fn layer_has(&self, layer: usize, suffix: &str) -> bool {
        self.has(&format!("blk.{layer}.{suffix}"))
    }

    /// The values of a small F32 vector, all of them positive, if it is there.
    pub fn factors(&self, tensor: &str, len: usize) -> Result<Option<Arc<[f32]>>> {
        let Some(found) = self.file.tensor(tensor) else { return Ok(None) };
        let wrong = |problem: String| Error::Tensor { name: tensor.to_owned(), problem };
        if found.format != Format::F32 || found.shape != [len as u64] {
            let (format, shape) = (found.format, &found.shape);
            return Err(wrong(format!("is {format} of shape {shape:?}, but must be F32 of shape [{len}]")));
        }
        let values: Arc<[f32]> =
            found.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        match values.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
            Some(x) => Err(wrong(format!("has the factor {x}; all must be finite and greater than 0"))),
            None => Ok(Some(values)),
        }
    }
}
