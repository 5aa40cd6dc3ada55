//! The op table, and the devices that run it.
//!
//! A forward step is data ([`Step`]): a list of [`Op`]s over numbered buffers,
//! weights and cache layers. A [`Backend`] lowers a step once per shape bucket
//! and then runs it with new [`StepInputs`] as often as asked. Everything a
//! kernel needs to know stands in its op's struct; nothing here knows what an
//! architecture or a request is.
//!
//! Each op is a folder under `kernels/`: its struct, slow obvious reference,
//! test cases and error bound in `op.rs`, beside one file per device.

pub mod bounds;
mod cache;
pub mod check;
pub mod cpu;
pub mod cuda;
mod device;
mod draw;
mod error;
pub mod gpu;
pub mod harness;
mod host;
mod inputs;
pub mod kernels;
pub mod metal;
mod op;
mod plan;
pub mod reference;
mod step;
pub mod support;
mod weight;

pub use cache::{CacheConfig, CacheLayerConfig, GroupConfig, KV_GROUP, KvFormat};
pub use cpu::{Cpu, CpuConfig, Isa, WeightLayout};
pub use device::{Backend, Bucket, Completed, LoweredId, MAX_LIKELIEST, Submission, Wanted};
pub use draw::Draw;
pub use error::{Error, Result};
pub use host::Memory;
pub use inputs::{GroupInputs, NO_PAGE, Role, SequenceInputs, StepInputs, TokenInputs};
pub use op::Op;
pub use plan::{Place, Plan};
pub use reference::Reference;
pub use step::{BufferDesc, BufferId, CacheLayerId, Rows, Step, WeightId};
pub use support::{Support, support_table};
pub use weight::Weight;
