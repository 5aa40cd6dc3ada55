//! `rope_store`: QK-norm, rotary embedding, K and V to their pages.

mod cpu;
mod gpu;
mod op;

pub(crate) use gpu::{MAX_PAIRS, definitions};
pub use op::*;
