//! `head`: logits of the wanted rows.

mod gpu;
mod op;

pub use op::*;
