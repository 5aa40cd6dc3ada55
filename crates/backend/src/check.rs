//! Whether a step fits its weights, its buffers and the cache.

use std::fmt::Display;

use gguf::Format;

use crate::kernels::rms_norm::Norm;
use crate::{BufferDesc, BufferId, CacheConfig, CacheLayerConfig, CacheLayerId, Error, GroupConfig};
use crate::{Op, Result, Rows, Step, Weight, WeightId};

/// What an op does with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Overwrites every element without reading it.
    Write,
    /// Reads and changes it.
    Update,
}

impl Step {
    /// Checks every op against the weights, buffers and cache layers it names.
    ///
    /// # Errors
    /// [`Error::Step`], naming the op and what does not fit.
    pub fn check(&self, weights: &[Weight], cache: &CacheConfig) -> Result<()> {
        cache.check()?;
        if let Some(empty) = self.buffers().iter().find(|buffer| buffer.cols == 0) {
            return Err(Error::Step(format!("buffer `{}` has no columns", empty.name)));
        }
        for (index, op) in self.ops().iter().enumerate() {
            let shapes = Shapes { step: self, weights, cache, op, index };
            op.check(&shapes)?;
            shapes.no_aliasing()?;
        }
        Ok(())
    }
}

impl CacheConfig {
    /// Checks that layers name groups and that no count is zero or too large.
    ///
    /// # Errors
    /// [`Error::Step`].
    pub fn check(&self) -> Result<()> {
        for (i, group) in self.groups.iter().enumerate() {
            let GroupConfig { n_pages, page_size, window } = *group;
            let slots = n_pages.checked_mul(page_size).filter(|&slots| slots > 0);
            if slots.is_none() || window == Some(0) {
                let problem = format!("{n_pages} pages of {page_size} tokens, window {window:?}");
                return Err(Error::Step(format!("cache group {i} has {problem}: none may be 0 or overflow")));
            }
        }
        for (i, layer) in self.layers.iter().enumerate() {
            if layer.group >= self.groups.len() {
                return Err(Error::Step(format!(
                    "cache layer {i} is of group {}, which is not there",
                    layer.group
                )));
            }
            if layer.n_kv_heads == 0 || layer.k_dim == 0 || layer.v_dim == 0 {
                return Err(Error::Step(format!("cache layer {i} has no heads or empty ones: {layer:?}")));
            }
        }
        Ok(())
    }
}

/// What an op's check compares itself with.
pub struct Shapes<'a> {
    step: &'a Step,
    weights: &'a [Weight],
    cache: &'a CacheConfig,
    op: &'a Op,
    index: usize,
}

impl Shapes<'_> {
    /// An [`Error::Step`] that names the op.
    pub fn error(&self, what: impl Display) -> Error {
        Error::Step(format!("op {} ({}): {what}", self.index, self.op.name()))
    }

    /// An error unless `ok`.
    pub fn require(&self, ok: bool, what: impl FnOnce() -> String) -> Result<()> {
        if ok { Ok(()) } else { Err(self.error(what())) }
    }

    /// The description of a buffer.
    pub fn buffer(&self, id: BufferId) -> Result<&BufferDesc> {
        self.step.desc(id).map_err(|_| self.error(format!("buffer {} was never declared", id.0)))
    }

    /// A buffer that must be `[rows, cols]`.
    pub fn expect_buffer(&self, id: BufferId, rows: Rows, cols: usize) -> Result<()> {
        let desc = self.buffer(id)?;
        self.require(desc.rows == rows && desc.cols == cols, || {
            format!(
                "buffer `{}` is [{:?}, {}], should be [{rows:?}, {cols}]",
                desc.name, desc.rows, desc.cols
            )
        })
    }

    /// A weight.
    pub fn weight(&self, id: WeightId) -> Result<&Weight> {
        self.weights.get(id.0 as usize).ok_or_else(|| self.error(format!("weight {} was never loaded", id.0)))
    }

    /// A weight that must have `cols` columns, and `rows` rows.
    pub fn expect_matrix(&self, id: WeightId, rows: usize, cols: usize) -> Result<()> {
        let weight = self.weight(id)?;
        self.require(weight.rows() == rows && weight.cols() == cols, || {
            let (name, r, c) = (weight.name(), weight.rows(), weight.cols());
            format!("weight `{name}` is [{r}, {c}], should be [{rows}, {cols}]")
        })
    }

    /// A weight that must be one F32 row of `len` elements.
    pub fn expect_vector(&self, id: WeightId, len: usize) -> Result<()> {
        self.expect_matrix(id, 1, len)?;
        let weight = self.weight(id)?;
        self.require(weight.format() == Format::F32, || {
            format!("weight `{}` is {}, should be F32", weight.name(), weight.format())
        })
    }

    /// A normalisation of vectors of `cols` elements.
    pub fn expect_norm(&self, norm: &Norm, cols: usize) -> Result<()> {
        self.require(norm.eps >= 0.0 && norm.eps.is_finite(), || format!("epsilon is {}", norm.eps))?;
        self.expect_vector(norm.weight, cols)
    }

    /// A linear map with its optional bias: `x` is `[rows, in]`, `out` `[rows, out]`.
    pub fn expect_linear(
        &self,
        weight: WeightId,
        bias: Option<WeightId>,
        x: BufferId,
        out: BufferId,
    ) -> Result<()> {
        let (x, out_desc) = (self.buffer(x)?, self.buffer(out)?);
        self.expect_matrix(weight, out_desc.cols, x.cols)?;
        if let Some(bias) = bias {
            self.expect_vector(bias, out_desc.cols)?;
        }
        self.expect_buffer(out, x.rows, out_desc.cols)
    }

    /// A cache layer.
    pub fn layer(&self, id: CacheLayerId) -> Result<&CacheLayerConfig> {
        let layer = self.cache.layers.get(id.0 as usize);
        layer.ok_or_else(|| self.error(format!("cache layer {} is not in the cache", id.0)))
    }

    /// A soft-cap, which must be positive.
    pub fn expect_softcap(&self, softcap: Option<f32>) -> Result<()> {
        let ok = softcap.is_none_or(|cap| cap > 0.0 && cap.is_finite());
        self.require(ok, || format!("soft-cap is {softcap:?}"))
    }

    /// No buffer is named twice by one op if the op changes it. (What an op may
    /// share, as `moe_add` its input with the residual, it reports once.)
    fn no_aliasing(&self) -> Result<()> {
        let mut seen: Vec<(BufferId, Access)> = Vec::new();
        self.op.accesses(&mut |id, access| seen.push((id, access)));
        for (i, (id, access)) in seen.iter().enumerate() {
            let clash = seen[..i].iter().any(|(other, other_access)| {
                id == other && (*access != Access::Read || *other_access != Access::Read)
            });
            self.require(!clash, || format!("buffer {} is both changed and used otherwise", id.0))?;
        }
        Ok(())
    }
}
