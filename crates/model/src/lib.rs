//! Architectures as data, and the one forward pass that serves them all.

mod error;
mod runner;

pub use backend::{
    GroupInputs, KvFormat, NO_PAGE, Role, SequenceInputs, StepInputs as ForwardBatch, TokenInputs,
};
pub use error::{Error, Result};
pub use runner::{CacheGroup, ModelRunner, RunnerLimits};
