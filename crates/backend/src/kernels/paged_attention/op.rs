//! `out = softmax(scale * q · Kᵀ) · V` over positions `0..=p` of the row's own
//! sequence, or the last `window` of them; streaming softmax (Milakov & Gimelshein 2018).

use super::super::{head::softcap, rope_store::RopeStore};
use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, inputs, one_layer};
use crate::host::HostLayer;
use crate::reference::Context;
use crate::{BufferId, CacheLayerId, KvFormat, Result, Rows};

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

/// The shape of one case.
struct Shape {
    n_heads: usize,
    n_kv_heads: usize,
    dims: [usize; 2],
    formats: [KvFormat; 2],
    page_size: u32,
    window: Option<u32>,
    softcap: Option<f32>,
}

/// Rows and contexts of two sequences, run after run: prefill in chunks, then decode of both together.
type Chunks = [[(u32, u32); 2]; 4];
const SHORT: Chunks = [[(17, 17), (1, 1)], [(16, 33), (2, 3)], [(1, 34), (1, 4)], [(4, 38), (20, 24)]];
/// More than what a kernel does at once, of rows and of positions.
const LONG: Chunks = [[(140, 140), (1, 1)], [(1, 141), (2, 3)], [(131, 272), (1, 4)], [(1, 273), (1, 5)]];
/// Two and three times as many splits as kernels fold side by side, for so few heads of so few elements.
const CHAINED: Chunks =
    [[(2400, 2400), (1, 1)], [(1, 2401), (2, 3)], [(1, 2402), (1, 4)], [(1, 2403), (1, 5)]];

impl PagedAttention {
    /// Head ratios, odd dimensions, KV formats, windows that leave pages behind,
    /// soft-caps; short and long contexts.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        use KvFormat::{BF16, F16, F32, Fp8, Q8_0};
        let shape = |n_heads, n_kv_heads, dims, formats, page_size, window, softcap| Shape {
            n_heads,
            n_kv_heads,
            dims,
            formats,
            page_size,
            window,
            softcap,
        };
        let short = [
            shape(4, 4, [64, 64], [F32, F32], 16, None, None),
            shape(9, 3, [64, 64], [F16, F16], 16, None, None),
            shape(14, 2, [64, 64], [F16, F16], 16, None, None),
            shape(8, 1, [128, 128], [BF16, BF16], 32, None, Some(3.0)),
            shape(3, 3, [80, 80], [F16, F16], 8, Some(20), None),
            shape(6, 2, [33, 17], [F32, F16], 16, Some(7), Some(1.5)),
            shape(4, 2, [256, 256], [F16, BF16], 64, Some(64), None),
            shape(2, 1, [96, 64], [BF16, F32], 4, None, None),
            shape(9, 3, [64, 64], [Q8_0, Q8_0], 16, None, None),
            shape(9, 3, [64, 64], [Fp8, Fp8], 16, Some(20), None),
            shape(4, 2, [128, 80], [Q8_0, Fp8], 32, None, None),
            shape(3, 1, [33, 17], [Fp8, Q8_0], 8, None, Some(2.0)),
        ];
        let long = [
            shape(2, 1, [32, 32], [F16, F16], 16, None, None),
            shape(3, 1, [64, 64], [BF16, Q8_0], 16, Some(150), Some(5.0)),
        ];
        let all = short.map(|shape| (shape, SHORT)).into_iter().chain(long.map(|shape| (shape, LONG)));
        let chained = (shape(1, 1, [16, 16], [F16, F16], 128, None, None), CHAINED);
        all.chain([chained]).map(|(shape, chunks)| Self::case(random, shape, chunks)).collect()
    }

    fn case(random: &mut Random, shape: Shape, chunks: Chunks) -> Case {
        let Shape { n_heads, n_kv_heads, dims: [k_dim, v_dim], formats, page_size, window, softcap } = shape;
        let context = chunks.iter().flatten().map(|&(_, context)| context).max().unwrap_or(0);
        let name = format!(
            "paged_attention {n_heads}/{n_kv_heads} heads, {k_dim}+{v_dim} {formats:?}, \
             pages of {page_size}, window {window:?}, soft-cap {softcap:?}, contexts to {context}"
        );
        let cache = one_layer(n_kv_heads, [k_dim, v_dim], formats, page_size, window);
        let bound = bounds::attention(k_dim, context as usize, formats[0], formats[1]);
        let mut case = CaseBuilder::new(random, name, bound);
        let q = case.input("q", n_heads * k_dim, 2.0);
        let k = case.input("k", n_kv_heads * k_dim, 2.0);
        let v = case.input("v", n_kv_heads * v_dim, 1.0);
        let out = case.buffer("out", n_heads * v_dim);
        let layer = CacheLayerId(0);
        let scale = 1.0 / (k_dim as f32).sqrt();
        case.push(RopeStore { q, k, v, n_heads, qk_norm: None, rope: None, cache: layer });
        case.push(Self { q, cache: layer, n_heads, scale, softcap, out });
        let runs = chunks.iter().map(|sequences| inputs(&cache, sequences)).collect();
        case.build(cache, runs, vec![out])
    }
}
