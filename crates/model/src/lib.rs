//! Architectures as data, and the one forward pass that serves them all.
//!
//! A file's metadata become a plain [`ModelConfig`] (`arch/`), its tensors
//! checked weights (`weights`), both together one step (`forward`) that any
//! [`backend::Backend`] runs. What the engine sees is [`ModelRunner`].

mod arch;
pub mod bench;
pub mod config;
mod error;
mod forward;
pub mod hf;
mod load;
mod loaded;
mod memory;
pub mod perplexity;
pub mod quantize;
mod rope;
mod runner;
pub mod single;
mod source;
pub mod testing;
mod weights;

pub use arch::supported_architectures;
pub use backend::{
    Draw, GroupInputs, KvFormat, MAX_LIKELIEST, NO_PAGE, Role, SequenceInputs, StepInputs as ForwardBatch,
    TokenInputs, Wanted,
};
pub use config::{ModelConfig, Pooling};
pub use error::{Error, Result};
pub use load::{LoadOptions, check, load};
pub use loaded::LoadedModel;
pub use memory::{MemoryPlan, PAGE_SIZE};
pub use runner::{CacheGroup, EmbeddingShape, ModelRunner, RunnerLimits, SubmittedStep};
