//! `moe_add`: a whole mixture-of-experts feed-forward, added to the residual stream.

mod cpu;
mod gpu;
mod op;

pub use op::*;
