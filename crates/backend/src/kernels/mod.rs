//! One folder an op: struct, reference, cases and bound in `op.rs`, and a file
//! per device: `cpu.rs`; `gpu.rs` says what any GPU launches, and `*.cu`,
//! `*.metal` and the `*.h` they share are those kernels.

pub mod embed;
pub mod head;
pub mod linear_add;
pub mod moe_add;
pub mod norm_linear;
pub mod paged_attention;
pub mod rms_norm;
pub mod rope_store;
pub mod swiglu_linear_add;
