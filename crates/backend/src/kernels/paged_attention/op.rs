//! `out = softmax(scale * q · Kᵀ) · V` over positions `0..=p` of the row's own
//! sequence, or the last `window` of them; streaming softmax (Milakov & Gimelshein 2018).

use super::super::head::softcap;
use crate::check::{Access, Shapes};
use crate::host::HostLayer;
use crate::reference::Context;
use crate::{BufferId, CacheLayerId, Result, Rows};

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

impl PagedAttention {
    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        let layer = shapes.layer(self.cache)?;
        let (n_heads, n_kv_heads) = (self.n_heads, layer.n_kv_heads);
        shapes.require(n_heads > 0 && n_heads.is_multiple_of(n_kv_heads), || {
            format!("{n_heads} heads do not share {n_kv_heads} key/value heads evenly")
        })?;
        shapes.require(self.scale.is_finite(), || format!("scale is {}", self.scale))?;
        shapes.expect_softcap(self.softcap)?;
        shapes.expect_buffer(self.q, Rows::Tokens, n_heads.saturating_mul(layer.k_dim))?;
        shapes.expect_buffer(self.out, Rows::Tokens, n_heads.saturating_mul(layer.v_dim))
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        visit(self.q, Access::Read);
        visit(self.out, Access::Write);
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let (queries, layer) = (context.rows(self.q), context.cache.layer(self.cache));
        let group = &context.inputs.groups[layer.config.group];
        let heads_per_kv = self.n_heads / layer.config.n_kv_heads;
        let mut out = Vec::new();
        for (i, sequence) in context.inputs.sequences.iter().enumerate() {
            let table = &group.block_tables[i * group.max_pages..];
            for position in sequence.n_context - sequence.n_rows..sequence.n_context {
                let oldest = layer.window.map_or(0, |window| (position + 1).saturating_sub(window));
                let slots: Vec<_> = (oldest..=position)
                    .map(|p| p as usize)
                    .map(|p| table[p / layer.page_size] as usize * layer.page_size + p % layer.page_size)
                    .collect();
                let heads = queries[out.len()].chunks_exact(layer.config.k_dim).enumerate();
                out.push(heads.flat_map(|(h, q)| self.attend(layer, &slots, h / heads_per_kv, q)).collect());
            }
        }
        context.set(self.out, &out);
        Ok(())
    }

    /// One query against the keys and values at `slots`.
    fn attend(&self, layer: &HostLayer, slots: &[usize], kv_head: usize, q: &[f64]) -> Vec<f64> {
        let scores = slots.iter().map(|&slot| {
            let key = layer.key(slot, kv_head);
            let dot: f64 = q.iter().zip(&key).map(|(q, &k)| q * f64::from(k)).sum();
            softcap(dot * f64::from(self.scale), self.softcap)
        });
        let scores: Vec<f64> = scores.collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - max).exp()).sum();
        let mut out = vec![0.0; layer.config.v_dim];
        for (score, &slot) in scores.iter().zip(slots) {
            let share = (score - max).exp() / total;
            out.iter_mut().zip(layer.value(slot, kv_head)).for_each(|(out, v)| *out += share * f64::from(v));
        }
        out
    }
}
