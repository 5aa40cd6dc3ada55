//! `gemma2` and `gemma3`: scaled embeddings, norms around both halves of a
//! layer, GELU, sliding windows on most layers, soft caps (2), normalised q
//! and k and two rotary bases (3).

use backend::kernels::rope_store::RopePairs;
use backend::kernels::swiglu_linear_add::Activation;

use super::common::Common;
use super::rotary::Rotary;
use crate::Result;
use crate::config::{
    FfnConfig, LayerConfig, ModelConfig, Norms, OutputWeight, Positions, QkNorms, RopeConfig, RopeScaling,
    Span,
};
use crate::source::Source;

const ROTARY: Rotary = Rotary { pairs: RopePairs::Halves, factors: false };

pub(super) fn describe_2(source: Source<'_>) -> Result<ModelConfig> {
    let common = Common::read(source)?;
    let rope = common.rotary(ROTARY)?;
    let window = source.u32("attention.sliding_window")?.unwrap_or(4096);
    let windowed = windowed_layers(&common, 2)?;
    let local = RopeConfig { base: local_base(source, rope.base)?, ..rope.clone() };
    let softcap = source.positive_or_zero("attn_logit_softcapping")?;
    let scale = attention_scale(&common, 46)?;
    let layers = (0..common.n_layers()).map(|i| {
        let window = Some(window).filter(|&w| windowed[i] && w > 0);
        let mut layer = layer(&common, i, window, &rope, &local, scale);
        layer.attention.softcap = Some(softcap.unwrap_or(50.0));
        layer
    });
    let mut model = model(&common, layers.collect());
    model.output.weight = OutputWeight::Tied;
    model.output.softcap = Some(source.positive_or_zero("final_logit_softcapping")?.unwrap_or(30.0));
    Ok(model)
}

pub(super) fn describe_3(source: Source<'_>) -> Result<ModelConfig> {
    let common = Common::read(source)?;
    let rope = common.rotary(ROTARY)?;
    let window = source.u32("attention.sliding_window")?.filter(|&w| w > 0);
    let windowed = windowed_layers(&common, 6)?;
    // Local layers keep the unscaled base whatever extends the global ones.
    let local = RopeConfig {
        base: local_base(source, 10_000.0)?,
        scaling: RopeScaling::Linear { factor: 1.0 },
        ..rope.clone()
    };
    let scale = attention_scale(&common, 62)?;
    let layers = (0..common.n_layers()).map(|i| {
        let mut layer = layer(&common, i, window.filter(|_| windowed[i]), &rope, &local, scale);
        layer.attention.qk_norms = QkNorms::PerHead;
        layer
    });
    let mut model = model(&common, layers.collect());
    model.output.softcap = source.positive_or_zero("final_logit_softcapping")?;
    Ok(model)
}

fn layer(
    common: &Common<'_>,
    i: usize,
    window: Option<u32>,
    global: &RopeConfig,
    local: &RopeConfig,
    scale: f32,
) -> LayerConfig {
    let mut layer = common.layer(i, global);
    layer.norms = Norms::PreAndPost;
    layer.attention.scale = scale;
    if let Some(window) = window {
        layer.attention.span = Span::Window(window);
        layer.attention.positions = Positions::Rotary(local.clone());
    }
    if let FfnConfig::Dense { activation, .. } = &mut layer.ffn {
        *activation = Activation::GeluTanh;
    }
    layer
}

fn model(common: &Common<'_>, layers: Vec<LayerConfig>) -> ModelConfig {
    let mut model = common.model(layers);
    model.embedding_scale = (common.n_embd as f32).sqrt();
    model
}

fn local_base(source: Source<'_>, default: f32) -> Result<f32> {
    let key = "rope.freq_base_swa";
    match source.positive(key)? {
        Some(found) if found <= 1.0 => Err(source.wrong(key, found, "must be greater than 1")),
        found => Ok(found.unwrap_or(default)),
    }
}

/// Which layers have a window: as listed, or all but every `n`-th.
fn windowed_layers(common: &Common<'_>, default_every: u32) -> Result<Vec<bool>> {
    let (source, key) = (common.source, "attention.sliding_window_pattern");
    let n_layers = common.n_layers();
    if let Some(gguf::Value::Array(found)) = source.file.metadata.get(&source.key(key)) {
        let listed: Option<Vec<bool>> = match found {
            gguf::Array::Bool(list) => Some(list.clone()),
            other => other.to_i64s().map(|list| list.iter().map(|&x| x != 0).collect()),
        };
        return listed.filter(|list| list.len() == n_layers).ok_or_else(|| {
            let found = format!("an array of {} {}", found.len(), found.element_type());
            source.wrong(key, found, format!("must have one flag for each of the {n_layers} layers"))
        });
    }
    let every = source.u32(key)?.unwrap_or(default_every) as usize;
    // A pattern of 0 means a window on every layer.
    Ok((0..n_layers).map(|i| every == 0 || i % every < every - 1).collect())
}

/// As the file says; else one over the root of the head dimension, except in
/// the 27B models, which files do not mark and only their number of layers
/// gives away: there the divisor is the root of `n_embd / n_heads`.
fn attention_scale(common: &Common<'_>, layers_of_27b: usize) -> Result<f32> {
    if let Some(scale) = common.source.positive("attention.scale")? {
        return Ok(scale);
    }
    let dim = match common.n_layers() == layers_of_27b {
        true => common.n_embd / common.n_heads[0],
        false => common.k_dim,
    };
    Ok(1.0 / (dim as f32).sqrt())
}
