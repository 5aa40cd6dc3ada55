//! `embed`: token ids to rows.

mod op;

pub use op::*;
