//! `norm_linear`: optional RMSNorm, then linear maps of one input.

mod gpu;
mod op;

pub use op::*;
