//! What can be wrong with a model.

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
}
