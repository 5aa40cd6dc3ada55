//! GGUF files: metadata, tensors and the table of block formats.
//!
//! Nothing here knows what a model is, what a GPU is, or how to wait. A file
//! is untrusted input: every count, size and offset in it is checked before
//! it is used, and what is wrong comes back as a typed [`Error`].
//!
//! Format specification: `docs/gguf.md` of the ggml project.

mod bytes;
mod cursor;
mod error;
mod file;
pub mod format;
pub mod metadata;
mod reader;
mod safetensors;
mod split;
pub mod tensor;
mod writer;

pub use bytes::{Bytes, Mapping};
pub use error::{Error, Result};
pub use file::ModelFile;
pub use format::Format;
pub use metadata::{Array, Metadata, Value};
pub use safetensors::SafeTensors;
pub use tensor::{Tensor, TensorInfo, Tensors};
pub use writer::Writer;
