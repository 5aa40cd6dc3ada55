//! `rms_norm`: root-mean-square normalisation.

mod cpu;
mod gpu;
mod op;

pub(crate) use gpu::From;
pub use op::*;
