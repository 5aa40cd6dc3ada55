//! Structured output: replies that must match a schema or grammar.

mod mask;

pub use mask::TokenMask;
