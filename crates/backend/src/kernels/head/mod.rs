//! `head`: logits of the wanted rows.

mod op;

pub use op::*;
