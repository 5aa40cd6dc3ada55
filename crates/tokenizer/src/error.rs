//! What can be wrong with a vocabulary, said so that its owner can act on it.

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with a tokenizer's description, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A metadata key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] gguf::Error),
    /// The kind of tokenizer is not one of those this build has.
    #[error("tokenizer model `{found}` is not supported; supported: {supported}")]
    UnsupportedModel {
        /// The value of `tokenizer.ggml.model`, or of `model.type` in tokenizer.json.
        found: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// The pre-tokenizer is not one of those this build has. Guessing another
    /// would give wrong token ids without a sign of it.
    #[error("pre-tokenizer `{found}` is not known; known: {known}")]
    UnknownPreTokenizer {
        /// The value of `tokenizer.ggml.pre`, or the pattern in tokenizer.json.
        found: String,
        /// Every name that would be accepted.
        known: String,
    },
    /// Two tokens have the same text, so that text has no one id.
    #[error("tokens {first} and {second} are both {text:?}; each text must have one id")]
    DuplicateToken {
        /// The text.
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// An array that runs beside the tokens has another length.
    #[error("`{key}` has {found} elements, but there are {tokens} tokens")]
    LengthMismatch {
        /// The array's metadata key.
        key: &'static str,
        /// Its length.
        found: usize,
        /// Number of tokens.
        tokens: usize,
    },
    /// The vocabulary has no tokens, or more than ids can name.
    #[error("a vocabulary of {0} tokens; it must have from 1 to 2^31-1")]
    VocabSize(usize),
    /// A token's type is not one the format defines.
    #[error("token {id} has type {found}; types are 0 to 6")]
    TokenType {
        /// The token.
        id: u32,
        /// Its type.
        found: i64,
    },
    /// A byte token's text is not `<0x00>` to `<0xFF>`.
    #[error("byte token {id} is {text:?}; a byte token reads <0x00> to <0xFF>")]
    ByteToken {
        /// The token.
        id: u32,
        /// Its text.
        text: String,
    },
    /// A special token's id is outside the vocabulary.
    #[error("`{key}` is {id}, but the vocabulary has {tokens} tokens")]
    SpecialOutOfRange {
        /// The metadata key.
        key: &'static str,
        /// The id.
        id: u64,
        /// Number of tokens.
        tokens: usize,
    },
    /// The file asks for a token at the start or end of each text, but does
    /// not say which.
    #[error("`{flag}` is true, but `{key}` names no token")]
    NoSuchSpecial {
        /// The flag that asks.
        flag: &'static str,
        /// The key that should name the token.
        key: &'static str,
    },
    /// A merge rule is not two parts with a space between.
    #[error("merge {index} is {text:?}; a merge is two parts with a space between")]
    Merge {
        /// Place in the list.
        index: usize,
        /// The rule.
        text: String,
    },
    /// `tokenizer.json` is not what its format prescribes.
    #[error("tokenizer.json: {what}")]
    HuggingFace {
        /// What was found, where, and what was expected.
        what: String,
    },
    /// `tokenizer.json` asks for something this build does not do, and without
    /// which the ids would be wrong.
    #[error("tokenizer.json asks for {what}, which is not supported")]
    UnsupportedFeature {
        /// What it asks for.
        what: String,
    },
}
