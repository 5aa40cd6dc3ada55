//! Tokenizers from a model's metadata: text to token ids and back.
//!
//! [`Tokenizer::from_metadata`] reads what a GGUF file says;
//! [`Tokenizer::encode`] and [`Tokenizer::decode`] turn text into ids and ids
//! into text, and [`Detokenizer`] does the latter token by token. Nothing
//! here knows what a model computes.

mod bpe;
mod byte_level;
mod detokenizer;
mod error;
mod hugging_face;
mod load;
mod merge;
mod partition;
mod pre;
mod special;
mod spm;
pub mod template;
mod tokenizer;
mod vocab;

pub use detokenizer::Detokenizer;
pub use error::{Error, Result};
pub use tokenizer::{Decode, Encode, Tokenizer};
pub use vocab::Kind;
