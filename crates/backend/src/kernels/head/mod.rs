//! `head`: logits of the wanted rows.

mod cpu;
mod op;

pub use op::*;
