//! Why a request was refused or could not be finished.

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A prompt without tokens.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// A token id the model does not have.
    #[error("token {id} is not in the vocabulary of {n_vocab} tokens")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// Prompt and reply exceed the context.
    #[error(
        "{prompt} prompt tokens and {max_tokens} new ones do not fit the context of {context}; \
         shorten the prompt, ask for fewer tokens, or raise --ctx"
    )]
    ContextExceeded {
        /// Tokens of the prompt.
        prompt: usize,
        /// New tokens asked for.
        max_tokens: usize,
        /// Context length in tokens.
        context: usize,
    },
    /// A sampling parameter is outside its range.
    #[error("{name} is {value}, but must be {range}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What would be accepted.
        range: &'static str,
    },
    /// A constraint on the output cannot be met, compiled or followed: what, and where.
    #[error("output constraint: {0}")]
    Constraint(String),
    /// The request can never be served with this cache.
    #[error(
        "the request needs {needed} cache pages of a group that has {total}; lower its length or raise --ctx"
    )]
    NeverFits {
        /// Pages the whole sequence takes.
        needed: usize,
        /// Pages in the pool.
        total: usize,
    },
    /// The queue is full.
    #[error("{waiting} requests are waiting already; try again later")]
    Busy {
        /// Requests in the queue.
        waiting: usize,
    },
    /// The request waited longer than it was allowed to.
    #[error("the request did not start within {waited:?}; try again later")]
    Overdue {
        /// How long it waited.
        waited: std::time::Duration,
    },
    /// Sampling has nothing to choose from.
    #[error("no token can follow: all are banned, or the model's output is not a number")]
    NoToken,
    /// The model's hidden states hold no embedding.
    #[error("the text has no embedding: the model's output is not a number")]
    NotFinite,
    /// The model gives no hidden states.
    #[error("this model cannot embed texts: its backend keeps no hidden states")]
    NoEmbeddings,
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
    /// A step that ran several requests failed; one of them has the cause.
    #[error("a step failed: {0}")]
    Step(String),
    /// The model failed while running the request.
    #[error(transparent)]
    Model(#[from] model::Error),
}
