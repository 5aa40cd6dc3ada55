//! `norm_linear`: optional RMSNorm, then linear maps of one input.

mod cpu;
mod gpu;
mod op;

pub use op::*;
