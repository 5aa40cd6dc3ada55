//! `linear_add`: a linear map added to the residual stream.

mod op;

pub use op::*;
