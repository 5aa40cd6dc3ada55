//! `embed`: token ids to rows.

mod cpu;
mod gpu;
mod op;

pub use op::*;
