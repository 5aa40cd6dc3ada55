//! A loaded model: picks the lowered step a batch fits and runs it.

use backend::{Backend, Bucket, BufferId, LoweredId, StepInputs};
use gguf::ModelFile;

use crate::config::ModelConfig;
use crate::memory::MemoryPlan;
use crate::{CacheGroup, Error, ModelRunner, Result, RunnerLimits};

/// A model on a backend, ready to run; see [`crate::load`].
pub struct LoadedModel {
    pub(crate) file: ModelFile,
    pub(crate) config: ModelConfig,
    pub(crate) plan: MemoryPlan,
    pub(crate) backend: Box<dyn Backend>,
    /// By size, smallest first.
    pub(crate) buckets: Vec<LoweredBucket>,
    pub(crate) logits_buffer: BufferId,
    pub(crate) groups: Vec<CacheGroup>,
    pub(crate) limits: RunnerLimits,
    /// The step that ran last.
    pub(crate) last: Option<LoweredId>,
    pub(crate) logits: Vec<f32>,
}

/// The step, lowered for batches up to a size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoweredBucket {
    pub id: LoweredId,
    pub bucket: Bucket,
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

    fn choose(&self, batch: &StepInputs) -> Result<LoweredId> {
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
        let lowered = self.buckets.iter().find(fits).expect("the largest bucket has the limits' size");
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
        self.last = None;
        let lowered = self.choose(batch)?;
        self.file.check_length()?;
        self.backend.run(lowered, batch)?;
        self.last = Some(lowered);
        Ok(())
    }

    fn logits(&mut self) -> Result<&[f32]> {
        let last = self.last.ok_or(Error::NoLogits)?;
        self.backend.read(last, self.logits_buffer, &mut self.logits)?;
        Ok(&self.logits)
    }

    fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> Result<()> {
        Ok(self.backend.copy_pages(group, pages)?)
    }

    fn description(&self) -> String {
        self.backend.description()
    }
}
