//! `swiglu_linear_add`: gated activation, down projection, added to the residual stream.

mod gpu;
mod op;

pub use op::*;
