//! Linear maps over weights in tiles: what matrix instructions multiply.
//!
//! Generated rows are multiplied as the CPU does it: 8-bit integers in blocks of
//! 32 against the weight's integers, exactly, and the blocks added up in order.
//! Prompt rows are rounded to bfloat16, and so are the weights as they are unpacked.

pub(crate) mod attended;
pub(crate) mod convert;
mod expert_maps;
pub(crate) mod experts;
pub(crate) mod gated;
pub(crate) mod items;
pub(crate) mod kernel;
pub(crate) mod linear;
pub(crate) mod normalised;
pub(crate) mod pack;
pub(crate) mod packing;
pub(crate) mod prompts;
pub(crate) mod qkv;
pub(crate) mod rounded;
pub(crate) mod step;
mod step_layer;
mod step_memory;
mod step_packings;
