//! From logits to a token: parameters, the stages, and reproducible randomness.

mod adjust;
mod candidates;
#[cfg(test)]
mod deciding;
mod logprobs;
mod params;
mod rng;
mod sampler;
#[cfg(test)]
mod tests;

pub use adjust::breaker_ids;
pub use logprobs::TokenLogprob;
pub use params::{DryParams, MirostatParams, PenaltyParams, SamplingParams, XtcParams};
pub use rng::uniform;
pub use sampler::{SampleInput, Sampled, Sampler, SamplerState};
