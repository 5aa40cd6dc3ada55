//! `linear_add`: a linear map added to the residual stream.

mod cpu;
mod op;

pub(crate) use cpu::ResidualLinear;
pub use op::*;
