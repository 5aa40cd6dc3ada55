//! What backends share on the host: checking inputs, the cache, and memory.

mod cache;
mod inputs;
mod kv_format;
mod memory;
mod spare;

pub use cache::{HostCache, HostLayer};
pub use inputs::Limits;
pub use memory::{Memory, ZeroedBytes};
pub use spare::best_fit;
