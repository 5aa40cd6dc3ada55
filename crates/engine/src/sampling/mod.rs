//! From logits to a token: parameters, the stages, and reproducible randomness.

mod logprobs;
mod params;
mod rng;
mod sampler;

pub(crate) use logprobs::logprobs;
pub use params::{PenaltyParams, SamplingParams};
pub use rng::uniform;
pub use sampler::Sampler;
