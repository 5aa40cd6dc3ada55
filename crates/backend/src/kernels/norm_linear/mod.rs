//! `norm_linear`: optional RMSNorm, then linear maps of one input.

mod op;

pub use op::*;
