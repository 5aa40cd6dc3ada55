//! Whole tiny models: embedding, layers, head, run in chunks and together.

use gguf::Format;

use super::build::{inputs, matrix, norm_weight};
use super::{Case, CaseBuilder, Random};
use crate::bounds;
use crate::kernels::embed::Embed;
use crate::kernels::head::Head;
use crate::kernels::linear_add::LinearAdd;
use crate::kernels::norm_linear::{NormLinear, Projection};
use crate::kernels::paged_attention::PagedAttention;
use crate::kernels::rms_norm::Norm;
use crate::kernels::rope_store::{Rope, RopePairs, RopeStore};
use crate::kernels::swiglu_linear_add::{Activation, SwigluLinearAdd};
use crate::{BufferId, CacheConfig, CacheLayerConfig, CacheLayerId, GroupConfig, KvFormat, WeightId};

/// The sizes of a tiny model, SmolLM2's proportions.
const N_EMBD: usize = 288;
const N_FF: usize = 768;
const N_VOCAB: usize = 130;
const N_HEADS: usize = 9;
const N_KV_HEADS: usize = 3;
const HEAD_DIM: usize = 32;
const N_LAYERS: usize = 2;

/// A model of each format that its row length allows, full and windowed layers in turn.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    [Format::F32, Format::F16, Format::Q8_0, Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::IQ4_NL]
        .map(|format| model(random, format))
        .into()
}

fn model(random: &mut Random, format: Format) -> Case {
    // Errors of a layer's four maps in a row, the last of gated values; the
    // residual stream carries most of the signal past them.
    let per_layer = bounds::linear(format, N_EMBD).times(3.0).plus(bounds::gated_linear(format, N_FF));
    let attention = bounds::attention(HEAD_DIM, 24, KvFormat::F16, KvFormat::F16);
    let bound = per_layer.plus(attention).times(N_LAYERS as f32);
    let mut case = CaseBuilder::new(random, format!("model {format}"), bound);
    let layer = CacheLayerConfig {
        group: 0,
        n_kv_heads: N_KV_HEADS,
        k_dim: HEAD_DIM,
        v_dim: HEAD_DIM,
        k_format: KvFormat::F16,
        v_format: KvFormat::F16,
    };
    let group = |window| GroupConfig { n_pages: 16, page_size: 8, window };
    let layers = (0..N_LAYERS).map(|i| CacheLayerConfig { group: i % 2, ..layer.clone() }).collect();
    let cache = CacheConfig { groups: vec![group(None), group(Some(10))], layers };

    let table = weight(&mut case, format, N_VOCAB, N_EMBD);
    let residual = case.buffer("residual", N_EMBD);
    case.push(Embed { table, scale: 17.0, out: residual });
    for i in 0..N_LAYERS {
        attention_layer(&mut case, format, residual, CacheLayerId(i as u32));
        feed_forward(&mut case, format, residual);
    }
    let (norm, weight) = (norm(&mut case), weight(&mut case, format, N_VOCAB, N_EMBD));
    let logits = case.outputs("logits", N_VOCAB);
    case.push(Head { x: residual, norm, weight, scale: 1.0, softcap: None, out: logits });
    let runs = [vec![(11, 11)], vec![(5, 16)], vec![(1, 17), (7, 7)], vec![(1, 18), (1, 8)]];
    let runs = runs.iter().map(|sequences| inputs(&cache, &slots_of_two(sequences))).collect();
    case.build(cache, runs, vec![logits])
}

/// Two sequences always, so that pages are dealt alike: one alone is joined by
/// a second of one token, which later runs start again.
fn slots_of_two(sequences: &[(u32, u32)]) -> Vec<(u32, u32)> {
    match sequences {
        [only] => vec![*only, (1, 1)],
        all => all.to_vec(),
    }
}

fn weight(case: &mut CaseBuilder<'_>, format: Format, rows: usize, cols: usize) -> WeightId {
    case.weight(|random| matrix(random, "w", format, rows, cols))
}

fn norm(case: &mut CaseBuilder<'_>) -> Norm {
    Norm { weight: case.weight(|random| norm_weight(random, N_EMBD)), eps: 1e-5 }
}

fn attention_layer(case: &mut CaseBuilder<'_>, format: Format, residual: BufferId, cache: CacheLayerId) {
    let q = case.buffer("q", N_HEADS * HEAD_DIM);
    let k = case.buffer("k", N_KV_HEADS * HEAD_DIM);
    let v = case.buffer("v", N_KV_HEADS * HEAD_DIM);
    let out = case.buffer("attention", N_HEADS * HEAD_DIM);
    let norm = Some(norm(case));
    let projections = [(q, N_HEADS), (k, N_KV_HEADS), (v, N_KV_HEADS)].map(|(out, heads)| Projection {
        weight: weight(case, format, heads * HEAD_DIM, N_EMBD),
        bias: None,
        out,
    });
    case.push(NormLinear { x: residual, norm, projections: projections.into() });
    let inv_freq = (0..HEAD_DIM / 2).map(|i| 10_000_f32.powf(-(i as f32) / 16.0)).collect();
    let rope = Some(Rope { pairs: RopePairs::Adjacent, inv_freq, magnitude: 1.0 });
    case.push(RopeStore { q, k, v, n_heads: N_HEADS, qk_norm: None, rope, cache });
    let scale = 1.0 / (HEAD_DIM as f32).sqrt();
    case.push(PagedAttention { q, cache, n_heads: N_HEADS, scale, softcap: None, out });
    let weight = weight(case, format, N_EMBD, N_HEADS * HEAD_DIM);
    case.push(LinearAdd { x: out, weight, bias: None, post_norm: None, scale: 1.0, residual });
}

fn feed_forward(case: &mut CaseBuilder<'_>, format: Format, residual: BufferId) {
    let (gate, up) = (case.buffer("gate", N_FF), case.buffer("up", N_FF));
    let norm = Some(norm(case));
    let projections =
        [gate, up].map(|out| Projection { weight: weight(case, format, N_FF, N_EMBD), bias: None, out });
    case.push(NormLinear { x: residual, norm, projections: projections.into() });
    let weight = weight(case, format, N_EMBD, N_FF);
    let activation = Activation::Silu;
    let (bias, post_norm, scale) = (None, None, 1.0);
    case.push(SwigluLinearAdd { gate, up, activation, weight, bias, post_norm, scale, residual });
}
