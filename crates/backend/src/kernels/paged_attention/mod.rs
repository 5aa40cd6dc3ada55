//! `paged_attention`: attention over the pages of each row's sequence.

#[cfg(target_arch = "x86_64")]
mod amx;
mod cpu;
mod generated;
mod gpu;
mod op;
mod split;

pub(crate) use gpu::Decoding;
pub use op::*;
