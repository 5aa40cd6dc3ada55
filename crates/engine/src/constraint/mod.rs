//! Structured output: replies that must match a schema, an expression or a grammar.
//!
//! A [`Constraint`] is what a request asks for, checked. [`Constraints`] knows
//! the model's tokens and makes of it a [`Matcher`], which says for each token
//! of a sequence which ones may follow. The parsing is done by `llguidance`.

mod calls;
mod compile;
mod lark;
mod mask;
mod matcher;
mod productive;
mod schema;
mod spec;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use calls::{CallGrammar, Callable};
pub use mask::TokenMask;
pub use matcher::Matcher;
pub use spec::Constraint;
pub use vocabulary::Constraints;
