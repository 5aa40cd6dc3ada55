//! `embed`: token ids to rows.

mod cpu;
mod op;

pub use op::*;
