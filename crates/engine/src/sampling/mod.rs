//! From logits to a token: parameters, the stages, and reproducible randomness.

mod params;
mod rng;
mod sampler;

pub use params::{PenaltyParams, SamplingParams};
pub use rng::uniform;
pub use sampler::Sampler;
