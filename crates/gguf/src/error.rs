//! What can be wrong with a file, said so that its owner can act on it.

use std::path::PathBuf;

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bytes are not a GGUF file, or a damaged one.
    #[error("not a valid GGUF file: {what} (at byte {at})")]
    Malformed {
        /// What was found and what was expected.
        what: String,
        /// Offset from the start of the file.
        at: u64,
    },
    /// A metadata key that must be there is not.
    #[error("metadata key `{key}` is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value has another type or range than its key requires.
    #[error("metadata key `{key}` should be {expected}, but is {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What was expected, in words.
        expected: &'static str,
        /// What was found, in words.
        found: String,
    },
    /// A row's length is not a whole number of the format's blocks.
    #[error("{format}: {elements} elements are not a multiple of the block length {block_len}")]
    RowLength {
        /// The format.
        format: crate::Format,
        /// Elements asked for.
        elements: usize,
        /// Elements a block.
        block_len: usize,
    },
    /// A buffer's size does not match the number of elements.
    #[error("{format}: {elements} elements take {expected} bytes, but the buffer has {found}")]
    BufferSize {
        /// The format.
        format: crate::Format,
        /// Elements asked for.
        elements: usize,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// The format is known by name only, or not for this operation.
    #[error("format {format} cannot be {operation} by this build")]
    UnsupportedFormat {
        /// The format.
        format: crate::Format,
        /// "read", "written" or "run".
        operation: &'static str,
    },
}
