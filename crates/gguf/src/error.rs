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
    /// The destination of a write refused.
    #[error("cannot write: {0}")]
    Output(#[from] std::io::Error),
    /// What is wrong, in the file it is wrong in.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong.
        source: Box<Error>,
    },
    /// The first four bytes are not `GGUF`.
    #[error("not a GGUF file: it starts with {found:02x?} instead of \"GGUF\"")]
    NotGguf {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A file for big-endian machines.
    #[error("a big-endian GGUF file; convert it to little-endian (`gguf-convert-endian` of PyPI `gguf`)")]
    BigEndian,
    /// A version that is neither 2 nor 3.
    #[error("GGUF version {version} is not supported (2 and 3 are); convert the model again")]
    UnsupportedVersion {
        /// The version found.
        version: u32,
    },
    /// The file ends before something it announced.
    #[error(
        "{subject} needs {needed} bytes at byte {at}, but the file has {left} left: truncated or damaged"
    )]
    Truncated {
        /// What was being read.
        subject: String,
        /// Offset from the start of the file.
        at: u64,
        /// Bytes that it takes at least.
        needed: u64,
        /// Bytes left in the file.
        left: u64,
    },
    /// A string that is not UTF-8.
    #[error("{subject} is not valid UTF-8 (string at byte {at})")]
    InvalidUtf8 {
        /// What was being read.
        subject: String,
        /// Offset of the string from the start of the file.
        at: u64,
    },
    /// Bytes that mean nothing in GGUF.
    #[error("damaged GGUF file: {what} (at byte {at})")]
    Malformed {
        /// What was found and what was expected.
        what: String,
        /// Offset from the start of the file.
        at: u64,
    },
    /// Arrays of arrays beyond [`crate::metadata::MAX_ARRAY_DEPTH`].
    #[error("{subject}: arrays are nested deeper than {limit} (at byte {at})")]
    TooDeep {
        /// The key concerned.
        subject: String,
        /// Offset from the start of the file.
        at: u64,
        /// The deepest nesting allowed.
        limit: usize,
    },
    /// A key or a tensor name is empty or longer than [`crate::metadata::MAX_NAME_LEN`].
    #[error("{subject} is {len} bytes long; names take 1 to {} bytes", crate::metadata::MAX_NAME_LEN)]
    NameLength {
        /// Which name.
        subject: String,
        /// Its length in bytes.
        len: u64,
    },
    /// A key appears twice.
    #[error("metadata key `{key}` appears twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A tensor name appears twice.
    #[error("tensor `{name}` appears twice")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// `general.alignment` is no alignment.
    #[error(
        "general.alignment is {found}; it must be a power of two from 8 to {}",
        crate::tensor::MAX_ALIGNMENT
    )]
    Alignment {
        /// The value found.
        found: u32,
    },
    /// A tensor type id outside the table of formats.
    #[error("tensor `{tensor}` has unknown type id {id}; the file may be newer than this build")]
    UnknownFormat {
        /// The tensor's name.
        tensor: String,
        /// The id found.
        id: u32,
    },
    /// A shape that no tensor can have.
    #[error("tensor `{tensor}` of shape {shape:?}: {what}")]
    Shape {
        /// The tensor's name.
        tensor: String,
        /// Its dimensions, as far as they were read.
        shape: Vec<u64>,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A tensor does not start at a multiple of the alignment.
    #[error(
        "tensor `{tensor}` starts at offset {offset}, which is not a multiple of the alignment {alignment}"
    )]
    Misaligned {
        /// The tensor's name.
        tensor: String,
        /// Its offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor ends past the end of its file.
    #[error(
        "tensor `{tensor}` ({bytes} bytes at offset {offset}) ends past the data section of {available} bytes: \
         truncated or damaged"
    )]
    OutOfFile {
        /// The tensor's name.
        tensor: String,
        /// Its offset in the data section.
        offset: u64,
        /// Its size.
        bytes: u64,
        /// Size of the data section.
        available: u64,
    },
    /// Two tensors share bytes.
    #[error("tensors `{first}` and `{second}` overlap")]
    Overlap {
        /// The tensor that starts first.
        first: String,
        /// The other.
        second: String,
    },
    /// A shard of a split model is not there.
    #[error("shard {} is missing; all shards must be in one directory", path.display())]
    MissingShard {
        /// Where it should be.
        path: PathBuf,
    },
    /// The shards of a split model do not fit together.
    #[error("split model: {what}")]
    Split {
        /// What does not fit.
        what: String,
    },
    /// A mapped file became shorter.
    #[error("{} shrank from {was} to {now} bytes while in use; load it again", path.display())]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// Its length when it was mapped.
        was: u64,
        /// Its length now.
        now: u64,
    },
    /// The data given to a writer is not what was announced.
    #[error("tensor `{tensor}`: {what}")]
    TensorData {
        /// The tensor's name.
        tensor: String,
        /// What does not fit.
        what: String,
    },
    /// A safetensors header or index that cannot be right.
    #[error("safetensors: {what}")]
    SafeTensors {
        /// What is wrong.
        what: String,
    },
    /// A safetensors element type other than F32, F16 and BF16.
    #[error("tensor `{tensor}` has dtype {dtype}; F32, F16 and BF16 can be loaded")]
    UnsupportedDtype {
        /// The tensor's name.
        tensor: String,
        /// Its dtype, as the file spells it.
        dtype: String,
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

impl Error {
    /// The same error, with the file it is about.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            named @ (Self::Io { .. }
            | Self::InFile { .. }
            | Self::Shrunk { .. }
            | Self::MissingShard { .. }) => named,
            source => Self::InFile { path: path.to_owned(), source: Box::new(source) },
        }
    }

    /// The error itself, without the file it is about.
    pub fn root(&self) -> &Self {
        match self {
            Self::InFile { source, .. } => source.root(),
            other => other,
        }
    }
}
