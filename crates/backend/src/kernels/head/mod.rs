//! `head`: logits of the wanted rows.

mod cpu;
mod gpu;
mod op;

pub use op::*;
