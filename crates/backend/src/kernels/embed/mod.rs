//! `embed`: token ids to rows.

mod gpu;
mod op;

pub use op::*;
