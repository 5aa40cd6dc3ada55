//! `phi3`: fused projections and LongRoPE tables.
//!
//! Files carry `attention.sliding_window`, but not consistently what the model
//! was trained with (Phi-4 writes 0, the long-context ones more than their
//! context); llama.cpp reads all of them as full attention, and so do we.

use backend::kernels::rope_store::RopePairs;

use super::common::Common;
use super::rotary::Rotary;
use crate::Result;
use crate::config::{FfnConfig, GateUpTensors, ModelConfig};
use crate::source::Source;

pub(super) fn describe(source: Source<'_>) -> Result<ModelConfig> {
    let common = Common::read(source)?;
    let rope = common.rotary(Rotary { pairs: RopePairs::Halves, factors: true })?;
    let layers = (0..common.n_layers()).map(|i| {
        let mut layer = common.layer(i, &rope);
        if let FfnConfig::Dense { gate_up, .. } = &mut layer.ffn {
            *gate_up = GateUpTensors::Fused;
        }
        layer
    });
    Ok(common.model(layers.collect()))
}
