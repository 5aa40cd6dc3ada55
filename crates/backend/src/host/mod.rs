//! What backends on the host's memory share: checking inputs, and the cache.

mod cache;
mod inputs;
mod kv_format;
mod memory;

pub use cache::{HostCache, HostLayer};
pub use inputs::Limits;
pub use memory::{Memory, ZeroedBytes};
