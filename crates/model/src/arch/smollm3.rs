//! `smollm3`: a llama with no positions on every fourth layer.

use backend::kernels::rope_store::RopePairs;

use super::common::Common;
use super::rotary::Rotary;
use crate::Result;
use crate::config::{ModelConfig, Positions};
use crate::source::Source;

/// Files have no key for this; it is part of the architecture.
const NO_ROPE_EVERY: usize = 4;

pub(super) fn describe(source: Source<'_>) -> Result<ModelConfig> {
    let common = Common::read(source)?;
    let rope = common.rotary(Rotary { pairs: RopePairs::Adjacent, factors: false })?;
    let layers = (0..common.n_layers()).map(|i| {
        let mut layer = common.layer(i, &rope);
        if (i + 1).is_multiple_of(NO_ROPE_EVERY) {
            layer.attention.positions = Positions::None;
        }
        layer
    });
    Ok(common.model(layers.collect()))
}
