//! `llama`: Llama 1 to 3, Mistral, SmolLM2, and with experts Mixtral.

use backend::kernels::rope_store::RopePairs;

use super::common::Common;
use super::rotary::Rotary;
use crate::Result;
use crate::config::{ModelConfig, Span};
use crate::source::Source;

pub(super) fn describe(source: Source<'_>) -> Result<ModelConfig> {
    let common = Common::read(source)?;
    let rope = common.rotary(Rotary { pairs: RopePairs::Adjacent, factors: true })?;
    // Mistral 7B 0.1 has a window on every layer; 0 stands for none.
    let span = match source.u32("attention.sliding_window")? {
        None | Some(0) => Span::Full,
        Some(window) => Span::Window(window),
    };
    let layers = (0..common.n_layers()).map(|i| {
        let mut layer = common.layer(i, &rope);
        layer.attention.span = span;
        layer
    });
    Ok(common.model(layers.collect()))
}
