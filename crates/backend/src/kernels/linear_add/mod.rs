//! `linear_add`: a linear map added to the residual stream.

mod cpu;
mod gpu;
mod op;

pub(crate) use cpu::ResidualLinear;
pub(crate) use gpu::{launch, launch_tiles};
pub use op::*;
