//! `rms_norm`: root-mean-square normalisation.

mod cpu;
mod op;

pub use op::*;
