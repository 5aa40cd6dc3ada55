//! What the engine sees of a model: something that takes batches and gives logits.

use backend::{StepInputs, Wanted};

use crate::Error;
use crate::config::Pooling;

/// One cache group, as the engine's block manager needs to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheGroup {
    /// Pages in the pool.
    pub n_pages: u32,
    /// Tokens a page.
    pub page_size: u32,
    /// `Some(w)`: a query sees its own and the `w - 1` positions before it, older pages may be freed.
    pub window: Option<u32>,
}

/// The largest batch a runner accepts, fixed when the model was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Vocabulary size: length of a logits row.
    pub n_vocab: usize,
    /// Longest context of one sequence, in tokens.
    pub max_context: u32,
    /// Rows a step.
    pub max_batch_tokens: usize,
    /// Sequences a step.
    pub max_sequences: usize,
    /// Rows a step whose logits are wanted.
    pub max_outputs: usize,
}

/// What a model's embeddings are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingShape {
    /// Numbers in one.
    pub n_embd: usize,
    /// Which hidden states make it, where nobody asks otherwise.
    pub pooling: Pooling,
}

/// A step as it is handed to a runner that may still be busy with the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmittedStep {
    /// The batch.
    pub batch: StepInputs,
    /// Whether the hidden states of all rows are wanted.
    pub hidden: bool,
    /// What the host gets of each output: logits alone from a runner whose
    /// [`max_likeliest`](ModelRunner::max_likeliest) is 0.
    pub wanted: Vec<Wanted>,
    /// Rows whose id nobody has seen yet, each with the output of the step submitted
    /// before, whose token it is; the batch has 0 in its place.
    pub carried: Vec<(u32, u32)>,
}

/// A loaded model on some backend. One thread owns it.
pub trait ModelRunner: Send {
    /// Batch limits and vocabulary size.
    fn limits(&self) -> RunnerLimits;

    /// The cache groups; batches carry one [`backend::GroupInputs`] for each.
    fn groups(&self) -> &[CacheGroup];

    /// Whether a step can be submitted while the one before it runs. If not, every
    /// step is completed before the next is submitted, and no row is ever carried.
    fn overlaps(&self) -> bool {
        false
    }

    /// How many of an output's likeliest tokens a step gives at most; 0: it gives logits alone.
    fn max_likeliest(&self) -> usize {
        0
    }

    /// Begins a step; steps run in the order they are submitted.
    ///
    /// A runner that overlaps nothing runs it here and now, as this default does.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); the step is then not to be completed.
    fn submit(&mut self, step: &SubmittedStep) -> crate::Result<()> {
        if step.hidden { self.forward_hidden(&step.batch) } else { self.forward(&step.batch) }
    }

    /// Rows of a prompt that take a step beside replies hardly longer than one does.
    fn prompt_tile(&self) -> usize {
        8
    }

    /// Waits for the oldest step that was submitted. Returns the likeliest token of each
    /// output of which that was wanted; a runner that gives logits alone may return an empty list.
    /// [`likeliest`](Self::likeliest) and [`logits`](Self::logits) are then those of the
    /// outputs of which they were wanted, and [`hidden`](Self::hidden) those of this step.
    ///
    /// # Errors
    /// [`crate::Error`] when the step failed.
    fn complete(&mut self) -> crate::Result<&[Option<u32>]> {
        Ok(&[])
    }

    /// Tokens with their logits, as [`backend::Completed`] has them.
    fn likeliest(&self) -> &[(u32, f32)] {
        &[]
    }

    /// Runs the model over a batch, writing its keys and values to the cache.
    ///
    /// # Errors
    /// [`crate::Error`] when the batch does not fit the limits, the file changed
    /// under us, or the device failed.
    fn forward(&mut self, batch: &StepInputs) -> crate::Result<()>;

    /// Logits of the last batch's outputs, `[outputs, n_vocab]`, in the batch's order.
    ///
    /// # Errors
    /// [`crate::Error`] when the device failed.
    fn logits(&mut self) -> crate::Result<&[f32]>;

    /// What embeddings are like; `None`: the runner keeps no hidden states.
    fn embedding(&self) -> Option<EmbeddingShape> {
        None
    }

    /// As [`forward`](Self::forward), and keeps the hidden states of all rows besides.
    ///
    /// # Errors
    /// As there; [`Error::NoHidden`] of a runner that keeps none.
    fn forward_hidden(&mut self, _batch: &StepInputs) -> crate::Result<()> {
        Err(Error::NoHidden)
    }

    /// Hidden states of the last batch's rows behind the final norm, `[rows, n_embd]`.
    ///
    /// # Errors
    /// [`Error::NoHidden`] unless [`forward_hidden`](Self::forward_hidden) ran last;
    /// [`Error`] when the device failed.
    fn hidden(&mut self) -> crate::Result<&[f32]> {
        Err(Error::NoHidden)
    }

    /// Copies cache pages `(from, to)` within a group.
    ///
    /// # Errors
    /// [`crate::Error`] for pages that are not there.
    fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> crate::Result<()>;

    /// One line for people: backend and device.
    fn description(&self) -> String;
}
