//! What a device must be able to do.

use gguf::Format;

use crate::{BufferId, CacheConfig, Draw, Memory, Result, Step, StepInputs, Weight};

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

/// The most of an output's likeliest tokens that a step gives: 40 to draw from, and the 64 that
/// penalties lower, are usual.
pub const MAX_LIKELIEST: usize = 128;

/// What the host gets of an output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// The likeliest token, which the step behind may carry.
    Token,
    /// One of the likeliest tokens, which the step behind may carry too.
    Drawn(Draw),
    /// So many of the likeliest tokens, from 1 to [`MAX_LIKELIEST`].
    Likeliest(u32),
    /// All logits.
    Logits,
}

impl Wanted {
    /// Whether the host gets the likeliest tokens with their logits.
    pub fn gives_likeliest(self) -> bool {
        matches!(self, Self::Likeliest(_))
    }

    /// How many of the likeliest tokens the device must find.
    pub fn n_likeliest(self) -> u32 {
        match self {
            Self::Token => 1,
            Self::Drawn(draw) => draw.top_k,
            Self::Likeliest(n) => n,
            Self::Logits => 0,
        }
    }
}

/// A step to be enqueued behind those that run.
#[derive(Debug, Clone, Copy)]
pub struct Submission<'a> {
    /// The inputs.
    pub inputs: &'a StepInputs,
    /// Where the step leaves its logits.
    pub logits: BufferId,
    /// What the host gets of each output. Of equal logits the lowest id is the likeliest; NaN and
    /// negative infinity never are.
    pub wanted: &'a [Wanted],
    /// Rows whose ids are not known yet, each with the output of the step submitted before
    /// whose token it is.
    pub carried: &'a [(u32, u32)],
    /// A buffer of all rows that the host wants besides.
    pub rows: Option<BufferId>,
}

/// What a submitted step gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Completed {
    /// Of each output, the token that it wanted; `None` where it wanted something else, or no logit
    /// was above negative infinity.
    pub tokens: Vec<Option<u32>>,
    /// Tokens with their logits, likeliest first, as many as wanted of each output that wanted
    /// some; those that there are none for have negative infinity.
    pub likeliest: Vec<(u32, f32)>,
    /// Logits of the outputs that wanted them, row-major.
    pub logits: Vec<f32>,
    /// The rows that were wanted besides.
    pub rows: Vec<f32>,
}

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

    /// Whether it does so where weights have this format.
    fn rounds_prompts_with(&self, format: Format) -> bool {
        let _ = format;
        self.rounds_prompts()
    }

    /// Whether scales of weights are rounded to f16, for tests to allow for
    /// ([`crate::bounds::F16_SCALES`]).
    fn rounds_scales(&self) -> bool {
        false
    }

    /// Rows of a prompt that take a step beside generated rows hardly longer than one does: fewer
    /// at a time gain nothing.
    fn prompt_tile(&self) -> usize {
        8
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

    /// [`lower`](Self::lower) for each of `buckets`, where what takes long is done for all of them at once.
    ///
    /// # Errors
    /// As [`lower`](Self::lower).
    fn lower_all(&mut self, step: &Step, buckets: &[Bucket]) -> Result<Vec<LoweredId>> {
        buckets.iter().map(|&bucket| self.lower(step, bucket)).collect()
    }

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

    /// Whether steps can be submitted while others run.
    fn overlaps(&self) -> bool {
        false
    }

    /// Enqueues a lowered step and returns; of a device that [overlaps](Self::overlaps) steps.
    ///
    /// # Errors
    /// As [`run`](Self::run); [`crate::Error::Step`] for a device that does not.
    fn submit(&mut self, _lowered: LoweredId, _submission: &Submission<'_>) -> Result<()> {
        Err(crate::Error::Step(format!("{} runs one step after the other", self.name())))
    }

    /// Waits for the oldest step that was submitted.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when it failed, [`crate::Error::Step`] when there is none.
    fn complete(&mut self) -> Result<Completed> {
        Err(crate::Error::Step("no step was submitted".to_owned()))
    }

    /// Copies whole pages within a group, in every layer of it: `(from, to)`.
    ///
    /// # Errors
    /// [`crate::Error::Inputs`] for a page that is not there.
    fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> Result<()>;
}
