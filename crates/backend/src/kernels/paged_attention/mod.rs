//! `paged_attention`: attention over the pages of each row's sequence.

mod cpu;
mod gpu;
mod op;

pub use op::*;
