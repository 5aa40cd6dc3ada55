//! `out = softmax(scale * q · Kᵀ) · V` over positions `0..=p` of the row's own
//! sequence, or the last `window` of them; streaming softmax (Milakov & Gimelshein 2018).

use crate::{BufferId, CacheLayerId};

/// Causal attention; the window is the cache group's.
#[derive(Debug, Clone)]
pub struct PagedAttention {
    /// `[tokens, n_heads * k_dim]`, rotated.
    pub q: BufferId,
    /// Keys and values, the step's own included.
    pub cache: CacheLayerId,
    /// Query heads; `n_heads / n_kv_heads` of them share a key/value head.
    pub n_heads: usize,
    /// Multiplies the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)` before the softmax (Gemma 2).
    pub softcap: Option<f32>,
    /// `[tokens, n_heads * v_dim]`
    pub out: BufferId,
}
