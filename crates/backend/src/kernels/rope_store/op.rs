//! Normalises heads where the model does, rotates q and k by position, writes k and v to the cache.
//!
//! Rotary embedding: Su et al. 2021. Every scaling rule (linear, YaRN, Llama 3,
//! LongRoPE) is a table of inverse frequencies and one magnitude, made when the
//! model is configured, so that no kernel knows their names.

use std::sync::Arc;

use super::super::rms_norm::Norm;
use crate::{BufferId, CacheLayerId};

/// Which elements of a head form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopePairs {
    /// `(2i, 2i + 1)`, as Llama's GGUF files are stored.
    Adjacent,
    /// `(i, i + n_dims / 2)`, as GPT-NeoX did it.
    Halves,
}

/// A rotary embedding, as data.
#[derive(Debug, Clone)]
pub struct Rope {
    /// How elements pair up.
    pub pairs: RopePairs,
    /// Angle per position of each pair, in radians; `2 * len` leading elements of a head rotate.
    pub inv_freq: Arc<[f32]>,
    /// Multiplies cosine and sine (YaRN's attention factor); 1 for most.
    pub magnitude: f32,
}

/// Per-head normalisation of q and k before rotation.
#[derive(Debug, Clone, Copy)]
pub struct QkNorm {
    /// `[k_dim]`
    pub q: Norm,
    /// `[k_dim]`
    pub k: Norm,
}

/// Prepares q in place and stores k and v at [`crate::GroupInputs::slots`].
#[derive(Debug, Clone)]
pub struct RopeStore {
    /// `[tokens, n_heads * k_dim]`, overwritten.
    pub q: BufferId,
    /// `[tokens, n_kv_heads * k_dim]`; may be overwritten.
    pub k: BufferId,
    /// `[tokens, n_kv_heads * v_dim]`
    pub v: BufferId,
    /// Query heads.
    pub n_heads: usize,
    /// Absent in most models.
    pub qk_norm: Option<QkNorm>,
    /// Absent in layers without positions.
    pub rope: Option<Rope>,
    /// Where k and v go; its configuration has the key/value heads and dimensions.
    pub cache: CacheLayerId,
}
