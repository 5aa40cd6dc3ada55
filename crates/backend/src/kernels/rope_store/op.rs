//! Normalises heads where the model does, rotates q and k by position, writes k and v to the cache.
//!
//! Rotary embedding: Su et al. 2021. Every scaling rule (linear, YaRN, Llama 3,
//! LongRoPE) is a table of inverse frequencies and one magnitude, made when the
//! model is configured, so that no kernel knows their names.

use std::sync::Arc;

use super::super::{paged_attention::PagedAttention, rms_norm::Norm};
use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, inputs, norm_weight, one_layer};
use crate::reference::Context;
use crate::{BufferId, CacheLayerId, KvFormat, Result, Role, Rows};

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

impl Rope {
    /// Rotates one head at `position`.
    pub(crate) fn reference(&self, head: &mut [f64], position: u32) {
        for (i, &inv_freq) in self.inv_freq.iter().enumerate() {
            let (a, b) = self.pair(i);
            let (sin, cos) = (f64::from(position) * f64::from(inv_freq)).sin_cos();
            let (sin, cos) = (sin * f64::from(self.magnitude), cos * f64::from(self.magnitude));
            (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
        }
    }

    /// The two elements of pair `i`.
    fn pair(&self, i: usize) -> (usize, usize) {
        match self.pairs {
            RopePairs::Adjacent => (2 * i, 2 * i + 1),
            RopePairs::Halves => (i, i + self.inv_freq.len()),
        }
    }
}

impl RopeStore {
    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        let layer = shapes.layer(self.cache)?;
        let (n_heads, n_kv_heads, k_dim) = (self.n_heads, layer.n_kv_heads, layer.k_dim);
        shapes.require(n_heads > 0, || "there are no heads".to_owned())?;
        shapes.expect_buffer(self.q, Rows::Tokens, n_heads.saturating_mul(k_dim))?;
        shapes.expect_buffer(self.k, Rows::Tokens, n_kv_heads.saturating_mul(k_dim))?;
        shapes.expect_buffer(self.v, Rows::Tokens, n_kv_heads.saturating_mul(layer.v_dim))?;
        if let Some(norms) = &self.qk_norm {
            shapes.expect_norm(&norms.q, k_dim)?;
            shapes.expect_norm(&norms.k, k_dim)?;
        }
        let n_dims = self.rope.as_ref().map_or(0, |rope| 2 * rope.inv_freq.len());
        shapes.require(n_dims <= k_dim, || format!("{n_dims} of {k_dim} elements of a head rotate"))
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        visit(self.q, Access::Update);
        visit(self.k, Access::Update);
        visit(self.v, Access::Read);
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let (mut q, k, v) = (context.rows(self.q), context.rows(self.k), context.rows(self.v));
        let (positions, layer) = (&context.inputs.positions, context.cache.layer(self.cache).config.clone());
        let prepare = |head: &[f64], norm: Option<Norm>, row: usize| -> Result<Vec<f64>> {
            let mut head = norm.map_or(Ok(head.to_vec()), |norm| norm.reference(context, head))?;
            if let Some(rope) = &self.rope {
                rope.reference(&mut head, positions[row]);
            }
            Ok(head)
        };
        let mut keys = Vec::new();
        for (row, (q, k)) in q.iter_mut().zip(&k).enumerate() {
            for head in q.chunks_exact_mut(layer.k_dim) {
                let rotated = prepare(head, self.qk_norm.map(|norms| norms.q), row)?;
                head.copy_from_slice(&rotated);
            }
            for head in k.chunks_exact(layer.k_dim) {
                keys.push(prepare(head, self.qk_norm.map(|norms| norms.k), row)?);
            }
        }
        let values = v.iter().flat_map(|row| row.chunks_exact(layer.v_dim));
        let slots = &context.inputs.groups[layer.group].slots;
        for (i, (key, value)) in keys.iter().zip(values).enumerate() {
            let (slot, kv_head) = (slots[i / layer.n_kv_heads] as usize, i % layer.n_kv_heads);
            let to_f32 = |x: &[f64]| -> Vec<f32> { x.iter().map(|&x| x as f32).collect() };
            context.cache.layer_mut(self.cache).store(slot, kv_head, &to_f32(key), &to_f32(value));
        }
        context.set(self.q, &q);
        Ok(())
    }
}

impl RopeStore {
    /// Either pairing, whole and part of a head, norms, several sequences. What
    /// is stored shows through attention.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        let mut cases = Vec::new();
        for (pairs, n_pairs, with_norm) in [
            (RopePairs::Adjacent, 32, false),
            (RopePairs::Halves, 32, true),
            (RopePairs::Halves, 9, false),
            (RopePairs::Adjacent, 0, true),
        ] {
            let name = format!("rope_store {pairs:?} {n_pairs} pairs, norm {with_norm}");
            cases.push(Self::case(random, name, pairs, n_pairs, with_norm));
        }
        for (format, window, pairs, n_pairs, with_norm) in [
            (KvFormat::F16, None, RopePairs::Halves, 32, true),
            (KvFormat::BF16, Some(100), RopePairs::Adjacent, 9, false),
            (KvFormat::Q8_0, None, RopePairs::Halves, 32, false),
            (KvFormat::Fp8, Some(3), RopePairs::Adjacent, 32, true),
        ] {
            cases.push(Self::replies(random, (format, window), (pairs, n_pairs), with_norm));
        }
        cases
    }

    /// Several generated rows a sequence, as where tokens were drafted, which see each other's keys and values; they
    /// lie in several runs of positions, and splits. A second attention reads the same cache, and stores nothing.
    fn replies(
        random: &mut Random,
        (format, window): (KvFormat, Option<u32>),
        (pairs, n_pairs): (RopePairs, usize),
        with_norm: bool,
    ) -> Case {
        const CONTEXT: usize = 132;
        let (n_heads, dim) = (6, 64);
        let name = format!(
            "rope_store, replies, {format:?}, window {window:?}, {pairs:?} {n_pairs} pairs, norm {with_norm}"
        );
        let cache = one_layer(2, [dim; 2], [format; 2], 16, window);
        let bound = bounds::attention(dim, CONTEXT, format, format);
        // As above.
        let angle = CONTEXT as f32 * f32::EPSILON;
        let bound = bound.plus(bounds::Bound { max: angle, rms: angle });
        let mut case = CaseBuilder::new(random, name, bound);
        let inv_freq = (0..n_pairs).map(|i| 10_000_f32.powf(-(i as f32) / 32.0)).collect();
        let mut norm = || Norm { weight: case.weight(|random| norm_weight(random, dim)), eps: 1e-6 };
        let qk_norm = with_norm.then(|| QkNorm { q: norm(), k: norm() });
        let rope = Some(Rope { pairs, inv_freq, magnitude: 1.1 });
        let (q, other_q) = (case.input("q", n_heads * dim, 1.0), case.input("other q", n_heads * dim, 1.0));
        let (k, v) = (case.input("k", 2 * dim, 1.0), case.input("v", 2 * dim, 1.0));
        let outs = ["attention", "other attention"].map(|name| case.buffer(name, n_heads * dim));
        let layer = CacheLayerId(0);
        case.push(Self { q, k, v, n_heads, qk_norm, rope, cache: layer });
        for (q, out) in [q, other_q].into_iter().zip(outs) {
            case.push(PagedAttention { q, cache: layer, n_heads, scale: 0.125, softcap: None, out });
        }
        let generated = |sequences: &[(u32, u32)]| {
            let mut inputs = inputs(&cache, sequences);
            inputs.sequences.iter_mut().for_each(|sequence| sequence.role = Role::Generated);
            inputs
        };
        let mut runs = vec![inputs(&cache, &[(125, 125), (30, 30)])];
        runs.extend([&[(6, 131), (1, 31)], &[(1, 132), (5, 36)]].map(|sequences| generated(sequences)));
        case.build(cache, runs, outs.into())
    }

    fn case(random: &mut Random, name: String, pairs: RopePairs, n_pairs: usize, with_norm: bool) -> Case {
        let (n_heads, k_dim, v_dim) = (6, 64, 48);
        let cache = one_layer(2, [k_dim, v_dim], [KvFormat::F32; 2], 16, None);
        let bound = bounds::attention(k_dim, 40, KvFormat::F32, KvFormat::F32);
        // Angles of position p are off by p·ε/2 where they are products in f32.
        let bound = bound.plus(bounds::Bound { max: 40.0 * f32::EPSILON, rms: 40.0 * f32::EPSILON });
        let mut case = CaseBuilder::new(random, name, bound);
        let inv_freq = (0..n_pairs).map(|i| 10_000_f32.powf(-(i as f32) / 32.0)).collect();
        let mut norm = || Norm { weight: case.weight(|random| norm_weight(random, k_dim)), eps: 1e-6 };
        let qk_norm = with_norm.then(|| QkNorm { q: norm(), k: norm() });
        let rope = (n_pairs > 0).then_some(Rope { pairs, inv_freq, magnitude: 1.1 });
        let q = case.input("q", n_heads * k_dim, 1.0);
        let k = case.input("k", 2 * k_dim, 1.0);
        let v = case.input("v", 2 * v_dim, 1.0);
        let out = case.buffer("attention", n_heads * v_dim);
        let layer = CacheLayerId(0);
        case.push(Self { q, k, v, n_heads, qk_norm, rope, cache: layer });
        case.push(PagedAttention { q, cache: layer, n_heads, scale: 0.125, softcap: None, out });
        let runs = vec![inputs(&cache, &[(33, 33), (1, 1)]), inputs(&cache, &[(2, 35), (5, 6)])];
        case.build(cache, runs, vec![out])
    }
}
