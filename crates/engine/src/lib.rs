//! Requests in, text out.
//!
//! A [`Request`] becomes a sequence with cache pages; the scheduler picks what
//! runs next; the model runs it; the sampler picks tokens; a [`Generation`]
//! carries them to the caller as text; an [`EmbeddingRequest`] ends with the
//! prompt's hidden states. The loop in `worker.rs` ties it together on one
//! thread that owns the model.

mod batch;
mod choosing;
mod constraint;
mod embedding;
mod engine;
mod error;
mod events;
mod generating;
pub mod metrics;
mod pace;
mod pages;
mod prompt;
mod reply;
mod request;
mod sampling;
pub mod scheduler;
mod sequence;
mod stop;
mod worker;

pub use constraint::{CallGrammar, Callable, Constraint, Constraints, Matcher, TokenMask};
pub use embedding::{Embedding, EmbeddingRequest, PendingEmbedding};
pub use engine::{Engine, EngineConfig, Load};
pub use error::{Error, Result};
pub use events::{Event, FinishReason, Generation, Stats};
pub use model::{EmbeddingShape, Pooling};
pub use prompt::{Prompt, encode_chat};
pub use reply::{ReplyDelta, ReplyFormat, ReplyParser, ToolFormat};
pub use request::Request;
pub use sampling::{
    DryParams, MirostatParams, PenaltyParams, SampleInput, Sampled, Sampler, SamplerState, SamplingParams,
    TokenLogprob, XtcParams, breaker_ids, uniform,
};
