//! A loaded model: picks the lowered step a batch fits and runs it.

use backend::{Backend, Bucket, BufferId, Completed, LoweredId, MAX_LIKELIEST, StepInputs, Submission};
use gguf::ModelFile;

use crate::config::ModelConfig;
use crate::memory::MemoryPlan;
use crate::{CacheGroup, EmbeddingShape, Error, ModelRunner, Result, RunnerLimits, SubmittedStep};

/// A model on a backend, ready to run; see [`crate::load`].
pub struct LoadedModel {
    pub(crate) file: ModelFile,
    pub(crate) config: ModelConfig,
    pub(crate) plan: MemoryPlan,
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) step: LoweredStep,
    /// The step that keeps hidden states.
    pub(crate) hidden_step: LoweredStep,
    pub(crate) groups: Vec<CacheGroup>,
    pub(crate) limits: RunnerLimits,
    /// The step that ran last.
    pub(crate) last: Option<Last>,
    /// What the step gave that was completed last, if none ran since.
    pub(crate) completed: Option<Completed>,
    pub(crate) logits: Vec<f32>,
    pub(crate) hidden: Vec<f32>,
}

/// A step, lowered for batches of several sizes, and where it leaves its results.
#[derive(Debug)]
pub(crate) struct LoweredStep {
    /// Smallest first.
    pub buckets: Vec<LoweredBucket>,
    pub logits: BufferId,
    pub hidden: Option<BufferId>,
}

/// A step, lowered for batches up to a size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoweredBucket {
    pub id: LoweredId,
    pub bucket: Bucket,
}

/// A lowered step that ran, and where it left its results.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Last {
    id: LoweredId,
    logits: BufferId,
    hidden: Option<BufferId>,
}

impl LoadedModel {
    /// The model as data.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The memory it takes.
    pub fn memory(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Runs a batch by the smallest lowered step that it fits.
    fn run(&mut self, batch: &StepInputs, hidden: bool) -> Result<()> {
        (self.last, self.completed) = (None, None);
        let last = self.lowered(batch, hidden)?;
        self.file.check_length()?;
        self.backend.run(last.id, batch)?;
        self.last = Some(last);
        Ok(())
    }

    /// The lowered step for a batch.
    fn lowered(&self, batch: &StepInputs, hidden: bool) -> Result<Last> {
        let step = if hidden { &self.hidden_step } else { &self.step };
        Ok(Last { id: self.choose(step, batch)?, logits: step.logits, hidden: step.hidden })
    }

    fn choose(&self, step: &LoweredStep, batch: &StepInputs) -> Result<LoweredId> {
        let (tokens, sequences, outputs) = (batch.tokens.len(), batch.sequences.len(), batch.outputs.len());
        for (what, found, most) in [
            ("rows", tokens, self.limits.max_batch_tokens),
            ("sequences", sequences, self.limits.max_sequences),
            ("outputs", outputs, self.limits.max_outputs),
        ] {
            if found > most {
                return Err(Error::Batch { what, found, most });
            }
        }
        let fits = |lowered: &&LoweredBucket| {
            let bucket = &lowered.bucket;
            tokens <= bucket.tokens && sequences <= bucket.sequences && outputs <= bucket.outputs
        };
        let lowered = step.buckets.iter().find(fits).expect("the largest bucket has the limits' size");
        Ok(lowered.id)
    }
}

impl ModelRunner for LoadedModel {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn groups(&self) -> &[CacheGroup] {
        &self.groups
    }

    fn forward(&mut self, batch: &StepInputs) -> Result<()> {
        self.run(batch, false)
    }

    fn overlaps(&self) -> bool {
        self.backend.overlaps()
    }

    fn prompt_tile(&self) -> usize {
        self.backend.prompt_tile()
    }

    fn max_likeliest(&self) -> usize {
        if self.backend.overlaps() { MAX_LIKELIEST } else { 0 }
    }

    fn submit(&mut self, step: &SubmittedStep) -> Result<()> {
        if !self.backend.overlaps() {
            return self.run(&step.batch, step.hidden);
        }
        let lowered = self.lowered(&step.batch, step.hidden)?;
        self.file.check_length()?;
        let submission = Submission {
            inputs: &step.batch,
            logits: lowered.logits,
            wanted: &step.wanted,
            carried: &step.carried,
            rows: lowered.hidden,
        };
        Ok(self.backend.submit(lowered.id, &submission)?)
    }

    fn complete(&mut self) -> Result<&[Option<u32>]> {
        if !self.backend.overlaps() {
            return Ok(&[]);
        }
        self.last = None;
        let completed = self.completed.insert(self.backend.complete()?);
        Ok(&completed.tokens)
    }

    fn likeliest(&self) -> &[(u32, f32)] {
        self.completed.as_ref().map_or(&[], |completed| &completed.likeliest)
    }

    fn logits(&mut self) -> Result<&[f32]> {
        if let Some(completed) = &self.completed {
            return Ok(&completed.logits);
        }
        let last = self.last.ok_or(Error::NoLogits)?;
        self.backend.read(last.id, last.logits, &mut self.logits)?;
        Ok(&self.logits)
    }

    fn embedding(&self) -> Option<EmbeddingShape> {
        Some(EmbeddingShape { n_embd: self.config.n_embd, pooling: self.config.pooling })
    }

    fn forward_hidden(&mut self, batch: &StepInputs) -> Result<()> {
        self.run(batch, true)
    }

    fn hidden(&mut self) -> Result<&[f32]> {
        if let Some(completed) = self.completed.as_ref().filter(|completed| !completed.rows.is_empty()) {
            return Ok(&completed.rows);
        }
        let last = self.last.ok_or(Error::NoHidden)?;
        self.backend.read(last.id, last.hidden.ok_or(Error::NoHidden)?, &mut self.hidden)?;
        Ok(&self.hidden)
    }

    fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> Result<()> {
        Ok(self.backend.copy_pages(group, pages)?)
    }

    fn description(&self) -> String {
        self.backend.description()
    }
}
