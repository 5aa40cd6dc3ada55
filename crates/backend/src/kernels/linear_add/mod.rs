//! `linear_add`: a linear map added to the residual stream.

mod gpu;
mod op;

pub(crate) use gpu::launch;
pub use op::*;
