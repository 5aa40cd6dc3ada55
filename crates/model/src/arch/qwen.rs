//! `qwen2` (biases on q, k and v), `qwen3` (normalised q and k) and `qwen3moe`.

use backend::kernels::rope_store::RopePairs;

use super::common::Common;
use super::rotary::Rotary;
use crate::config::{FfnConfig, ModelConfig, QkNorms};
use crate::source::Source;
use crate::{Error, Result};

pub(super) fn describe_2(source: Source<'_>) -> Result<ModelConfig> {
    describe(source, QkNorms::None)
}

pub(super) fn describe_3(source: Source<'_>) -> Result<ModelConfig> {
    describe(source, QkNorms::PerHead)
}

pub(super) fn describe_3_moe(source: Source<'_>) -> Result<ModelConfig> {
    let config = describe(source, QkNorms::PerHead)?;
    match config.layers[0].ffn {
        FfnConfig::Moe { .. } => Ok(config),
        FfnConfig::Dense { .. } => Err(Error::Config {
            key: source.key("expert_count"),
            found: "0".into(),
            problem: "must be at least 1 for this architecture".into(),
        }),
    }
}

fn describe(source: Source<'_>, qk_norms: QkNorms) -> Result<ModelConfig> {
    let common = Common::read(source)?;
    let rope = common.rotary(Rotary { pairs: RopePairs::Halves, factors: false })?;
    let layers = (0..common.n_layers()).map(|i| {
        let mut layer = common.layer(i, &rope);
        layer.attention.qk_norms = qk_norms;
        layer
    });
    Ok(common.model(layers.collect()))
}
