//! Whole tiny models: embedding, layers, head, run in chunks and together.

use gguf::Format;

use super::build::{formats, inputs, matrix, norm_weight};
use super::{Case, CaseBuilder, Random};
use crate::bounds::{self, Bound};
use crate::kernels::embed::Embed;
use crate::kernels::head::Head;
use crate::kernels::linear_add::LinearAdd;
use crate::kernels::norm_linear::{NormLinear, Projection};
use crate::kernels::paged_attention::PagedAttention;
use crate::kernels::rms_norm::Norm;
use crate::kernels::rope_store::{Rope, RopePairs, RopeStore};
use crate::kernels::swiglu_linear_add::{Activation, SwigluLinearAdd};
use crate::{BufferId, CacheConfig, CacheLayerConfig, CacheLayerId, GroupConfig, KvFormat, WeightId};

/// The sizes of a model in the manner of Llama.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "the names the field uses")]
pub struct ModelShape {
    pub n_layers: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_vocab: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

/// The formats of a model and its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Of weights.
    pub weights: Format,
    /// Of keys.
    pub keys: KvFormat,
    /// Of values.
    pub values: KvFormat,
}

impl Used {
    fn f16(weights: Format) -> Self {
        Self { weights, keys: KvFormat::F16, values: KvFormat::F16 }
    }
}

/// The positions that rows of short runs see, about.
const SHORT: usize = 24;
/// Rows of a long prompt: more than kernels for prompts take together.
const LONG: u32 = 70;

impl ModelShape {
    /// Small, with rows for blocks of any length.
    const WIDE: Self =
        Self { n_layers: 1, n_embd: 256, n_ff: 512, n_vocab: 66, n_heads: 4, n_kv_heads: 2, head_dim: 64 };

    /// The proportions of SmolLM2, small.
    pub const TINY: Self =
        Self { n_layers: 2, n_embd: 288, n_ff: 768, n_vocab: 130, n_heads: 9, n_kv_heads: 3, head_dim: 32 };

    /// SmolLM2-135M.
    pub const SMOLLM2_135M: Self = Self {
        n_layers: 30,
        n_embd: 576,
        n_ff: 1536,
        n_vocab: 49152,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
    };

    /// A model with random weights of `format`, over a cache of f16 with
    /// `groups` in turn. The last buffer is the logits. It has no runs yet.
    pub fn case(self, random: &mut Random, format: Format, groups: Vec<GroupConfig>) -> Case {
        self.case_of(random, &Used::f16(format), groups, SHORT)
    }

    /// The same over a cache of other formats, for runs that see up to `n_context` positions.
    fn case_of(self, random: &mut Random, used: &Used, groups: Vec<GroupConfig>, n_context: usize) -> Case {
        let Used { weights: format, keys, values } = *used;
        let name = format!("model {format}, cache {} and {}", keys.name(), values.name());
        let mut case = CaseBuilder::new(random, name, self.bound(used, n_context));
        let layers = (0..self.n_layers).map(|i| CacheLayerConfig {
            group: i % groups.len(),
            n_kv_heads: self.n_kv_heads,
            k_dim: self.head_dim,
            v_dim: self.head_dim,
            k_format: keys,
            v_format: values,
        });
        let layers = layers.collect();
        let table = weight(&mut case, format, self.n_vocab, self.n_embd);
        let residual = case.buffer("residual", self.n_embd);
        let scale = (self.n_embd as f32).sqrt();
        case.push(Embed { table, scale, out: residual });
        for i in 0..self.n_layers {
            self.attention(&mut case, format, residual, CacheLayerId(i as u32));
            self.feed_forward(&mut case, format, residual);
        }
        let norm = self.norm(&mut case);
        let logits = case.outputs("logits", self.n_vocab);
        case.push(Head { x: residual, norm, weight: table, scale: 1.0, softcap: None, out: logits });
        case.build(CacheConfig { groups, layers }, Vec::new(), vec![logits])
    }

    /// Errors of a layer's four maps in a row, the last of gated values, times
    /// layers; the residual stream carries most of the signal past them.
    fn bound(self, used: &Used, n_context: usize) -> Bound {
        let Used { weights: format, keys, values } = *used;
        let maps = bounds::linear(format, self.n_embd).times(3.0);
        let maps = maps.plus(bounds::gated_linear(format, self.n_ff));
        let attention = bounds::attention(self.head_dim, n_context, keys, values);
        maps.plus(attention).times(self.n_layers as f32)
    }

    fn norm(self, case: &mut CaseBuilder<'_>) -> Norm {
        Norm { weight: case.weight(|random| norm_weight(random, self.n_embd)), eps: 1e-5 }
    }

    fn attention(self, case: &mut CaseBuilder<'_>, format: Format, residual: BufferId, cache: CacheLayerId) {
        let Self { n_embd, n_heads, n_kv_heads, head_dim, .. } = self;
        let q = case.buffer("q", n_heads * head_dim);
        let k = case.buffer("k", n_kv_heads * head_dim);
        let v = case.buffer("v", n_kv_heads * head_dim);
        let out = case.buffer("attention", n_heads * head_dim);
        let norm = Some(self.norm(case));
        let projections = [(q, n_heads), (k, n_kv_heads), (v, n_kv_heads)].map(|(out, heads)| Projection {
            weight: weight(case, format, heads * head_dim, n_embd),
            bias: None,
            out,
        });
        case.push(NormLinear { x: residual, norm, projections: projections.into() });
        let inv_freq =
            (0..head_dim / 2).map(|i| 10_000_f32.powf(-2.0 * i as f32 / head_dim as f32)).collect();
        let rope = Some(Rope { pairs: RopePairs::Adjacent, inv_freq, magnitude: 1.0 });
        case.push(RopeStore { q, k, v, n_heads, qk_norm: None, rope, cache });
        let scale = 1.0 / (head_dim as f32).sqrt();
        case.push(PagedAttention { q, cache, n_heads, scale, softcap: None, out });
        let weight = weight(case, format, n_embd, n_heads * head_dim);
        case.push(LinearAdd { x: out, weight, bias: None, post_norm: None, scale: 1.0, residual });
    }

    fn feed_forward(self, case: &mut CaseBuilder<'_>, format: Format, residual: BufferId) {
        let Self { n_embd, n_ff, .. } = self;
        let (gate, up) = (case.buffer("gate", n_ff), case.buffer("up", n_ff));
        let norm = Some(self.norm(case));
        let projections =
            [gate, up].map(|out| Projection { weight: weight(case, format, n_ff, n_embd), bias: None, out });
        case.push(NormLinear { x: residual, norm, projections: projections.into() });
        let weight = weight(case, format, n_embd, n_ff);
        let activation = Activation::Silu;
        let (bias, post_norm, scale) = (None, None, 1.0);
        case.push(SwigluLinearAdd { gate, up, activation, weight, bias, post_norm, scale, residual });
    }
}

fn weight(case: &mut CaseBuilder<'_>, format: Format, rows: usize, cols: usize) -> WeightId {
    case.weight(|random| matrix(random, "w", format, rows, cols))
}

/// Two groups of pages, all positions and the last ten.
pub(super) fn two_groups() -> Vec<GroupConfig> {
    [None, Some(10)].map(|window| GroupConfig { n_pages: 16, page_size: 8, window }).into()
}

/// A tiny model of each format that its row length allows.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let formats = formats().filter(|format| format.block_len() <= 32);
    formats.map(|format| case(random, format)).collect()
}

/// A tiny model, full and windowed layers in turn, run in chunks and with several sequences.
pub(super) fn case(random: &mut Random, format: Format) -> Case {
    let mut case = ModelShape::TINY.case(random, format, two_groups());
    // Always two sequences, so that pages are dealt alike: the second is
    // one token until it starts over.
    let runs = [[(11, 11), (1, 1)], [(5, 16), (1, 1)], [(1, 17), (7, 7)], [(1, 18), (1, 8)]];
    case.runs = runs.iter().map(|sequences| inputs(&case.cache, sequences)).collect();
    case
}

/// A layer with a prompt longer than kernels take together, then more of it beside a generated row.
pub(super) fn long_case(random: &mut Random, used: &Used) -> Case {
    let group = GroupConfig { n_pages: 32, page_size: 16, window: None };
    let mut case = ModelShape::WIDE.case_of(random, used, vec![group], 2 * LONG as usize);
    let runs = [[(LONG, LONG), (1, 1)], [(1, LONG + 1), (LONG, LONG + 1)]];
    case.runs = runs.iter().map(|sequences| inputs(&case.cache, sequences)).collect();
    case
}
