//! `swiglu_linear_add`: gated activation, down projection, added to the residual stream.

mod cpu;
mod gpu;
mod op;

pub use op::*;
