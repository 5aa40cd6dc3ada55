//! What can be wrong with a model.

use crate::MemoryPlan;

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file.
    #[error(transparent)]
    File(#[from] gguf::Error),
    /// The device.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// An architecture nobody has described here yet.
    #[error("architecture `{found}` is not supported; supported: {supported}")]
    UnknownArchitecture {
        /// `general.architecture` of the file.
        found: String,
        /// The ones that are, comma-separated.
        supported: String,
    },
    /// A hyper-parameter that no model can have.
    #[error("{key} = {found} {problem}")]
    Config {
        /// The metadata key.
        key: String,
        /// Its value.
        found: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is missing, unexpected, or of the wrong shape or format.
    #[error("tensor `{name}`: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Weights, cache and scratch together exceed the memory there is.
    #[error(
        "needs {} bytes of weights, {} of KV cache for a context of {} tokens and {} of scratch, together {}, \
         but may use {limit}; {}",
        plan.weights, plan.kv_cache, plan.context, plan.scratch, plan.total(), advice(*fits)
    )]
    Memory {
        /// The numbers.
        plan: MemoryPlan,
        /// Bytes there are.
        limit: u64,
        /// The longest context that would fit; 0 if none does.
        fits: u32,
    },
    /// The cache was given less memory than one sequence of full length takes.
    #[error(
        "a KV cache for a context of {context} tokens takes {needed} bytes, but may take {budget}; {}",
        advice(*fits)
    )]
    CacheMemory {
        /// Bytes that one sequence takes.
        needed: u64,
        /// Its length in tokens.
        context: u32,
        /// Bytes that the cache may take.
        budget: u64,
        /// The longest context that would fit; 0 if none does.
        fits: u32,
    },
    /// A load option that makes no sense for this model.
    #[error("option {option}: {problem}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A batch larger than the model was loaded for.
    #[error("a batch of {found} {what}, but the model was loaded for at most {most}")]
    Batch {
        /// Rows, sequences or outputs.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// The caller ended a conversion through its progress callback.
    #[error("cancelled")]
    Cancelled,
    /// Logits were asked for before a batch ran.
    #[error("no batch has run, so there are no logits")]
    NoLogits,
    /// Hidden states were asked for, but the last batch kept none.
    #[error("no batch has run that keeps hidden states")]
    NoHidden,
}

fn advice(fits: u32) -> String {
    match fits {
        0 => "no context fits; use a smaller model or format".into(),
        fits => format!("a context of {fits} tokens would fit"),
    }
}
