//! What a device must be able to do.

use crate::{BufferId, CacheConfig, Memory, Result, Step, StepInputs, Weight};

/// The largest inputs a lowered step accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Rows.
    pub tokens: usize,
    /// Sequences.
    pub sequences: usize,
    /// Rows whose logits are wanted.
    pub outputs: usize,
    /// Entries of a block table row.
    pub max_pages: usize,
}

/// Names a lowered step of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LoweredId(pub u32);

/// A device that runs steps. One thread owns it; calls that enqueue work may
/// return before the work is done, calls that read wait for it.
pub trait Backend: Send {
    /// Short name: `cpu`, `cuda`, `metal`, `reference`.
    fn name(&self) -> &'static str;

    /// One line for people: which device, which instruction sets.
    fn description(&self) -> String;

    /// Whether rows of prompts are multiplied in bf16 somewhere, for tests to
    /// allow for ([`crate::bounds::BF16_PROMPTS`]).
    fn rounds_prompts(&self) -> bool {
        false
    }

    /// Whether scales of weights are rounded to f16, for tests to allow for
    /// ([`crate::bounds::F16_SCALES`]).
    fn rounds_scales(&self) -> bool {
        false
    }

    /// The memory that weights, cache and scratch lie in, where the device says.
    fn memory(&self) -> Option<Memory> {
        None
    }

    /// Bytes that a weight takes once it is loaded.
    fn weight_bytes(&self, weight: &Weight) -> u64 {
        weight.bytes().len() as u64
    }

    /// Takes the model's weights; [`crate::WeightId`] `i` is `weights[i]` from now on.
    ///
    /// # Errors
    /// [`crate::Error::Absent`] for a format no kernel here reads, [`crate::Error::OutOfMemory`].
    fn load(&mut self, weights: Vec<Weight>) -> Result<()>;

    /// Reserves the KV cache. Replaces an earlier one.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] with what would fit.
    fn create_cache(&mut self, config: &CacheConfig) -> Result<()>;

    /// Prepares `step` for inputs up to `bucket`: checks shapes, picks kernels,
    /// assigns scratch. Scratch is one arena, sized by the largest lowered step.
    ///
    /// # Errors
    /// [`crate::Error::Step`] for a step that does not fit its weights,
    /// [`crate::Error::Absent`] where a kernel is missing, [`crate::Error::OutOfMemory`].
    fn lower(&mut self, step: &Step, bucket: Bucket) -> Result<LoweredId>;

    /// Runs a lowered step.
    ///
    /// # Errors
    /// [`crate::Error::Inputs`] when the inputs exceed the bucket or contradict each other.
    fn run(&mut self, lowered: LoweredId, inputs: &StepInputs) -> Result<()>;

    /// Copies a buffer of the last run step to `out`, row-major. Buffers that no
    /// later op reads are kept until the next run; others may have been reused.
    ///
    /// # Errors
    /// [`crate::Error::Step`] for a buffer that was not kept.
    fn read(&mut self, lowered: LoweredId, buffer: BufferId, out: &mut Vec<f32>) -> Result<()>;

    /// Sets a buffer before a run, for tests of single ops; the buffer must be
    /// read by some op before any op writes it.
    ///
    /// # Errors
    /// [`crate::Error::Step`] for an unknown buffer or a wrong size.
    fn write(&mut self, lowered: LoweredId, buffer: BufferId, values: &[f32]) -> Result<()>;

    /// Copies whole pages within a group, in every layer of it: `(from, to)`.
    ///
    /// # Errors
    /// [`crate::Error::Inputs`] for a page that is not there.
    fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> Result<()>;
}
