//! `rms_norm`: root-mean-square normalisation.

mod op;

pub use op::*;
