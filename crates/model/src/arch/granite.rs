//! `granite`: a llama whose embeddings, residuals, attention and logits are scaled.

use backend::kernels::rope_store::RopePairs;

use super::common::{Common, required};
use super::rotary::Rotary;
use crate::Result;
use crate::config::{ModelConfig, Positions};
use crate::source::Source;

pub(super) fn describe(source: Source<'_>) -> Result<ModelConfig> {
    let common = Common::read(source)?;
    let rope = common.rotary(Rotary { pairs: RopePairs::Adjacent, factors: true })?;
    let divisor = required(source, "logit_scale", source.positive("logit_scale")?)?;
    let residual_scale = source.positive_or_zero("residual_scale")?;
    let attention_scale = source.positive_or_zero("attention.scale")?;
    // Here "finetuned" is the switch for having positions at all.
    let rotary = source.file.metadata.bool(&source.key("rope.scaling.finetuned"))?.unwrap_or(true);
    let layers = (0..common.n_layers()).map(|i| {
        let mut layer = common.layer(i, &rope);
        layer.residual_scale = residual_scale.unwrap_or(1.0);
        layer.attention.scale = attention_scale.unwrap_or(layer.attention.scale);
        if !rotary {
            layer.attention.positions = Positions::None;
        }
        layer
    });
    let mut model = common.model(layers.collect());
    model.embedding_scale = source.positive_or_zero("embedding_scale")?.unwrap_or(1.0);
    model.output.scale = 1.0 / divisor;
    Ok(model)
}
