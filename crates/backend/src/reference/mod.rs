//! The slow, obvious backend that the others are measured against: f32
//! storage, f64 arithmetic, one op after the other as `op.rs` has it.

mod context;

pub use context::{Context, Rows};

use gguf::format::Support;

use crate::host::{HostCache, Limits};
use crate::plan::Plan;
use crate::{Backend, Bucket, BufferId, CacheConfig, Error, LoweredId, Result, Step, StepInputs, Weight};

/// Runs steps with the reference implementation of every op.
#[derive(Debug, Default)]
pub struct Reference {
    weights: Vec<Weight>,
    cache: HostCache,
    lowered: Vec<Lowered>,
}

#[derive(Debug)]
struct Lowered {
    step: Step,
    plan: Plan,
    limits: Limits,
    /// One for each buffer of the step, as long as its last use needed.
    buffers: Vec<Vec<f32>>,
}

impl Reference {
    /// A backend with no weights and no cache.
    pub fn new() -> Self {
        Self::default()
    }

    fn get(&mut self, id: LoweredId) -> Result<&mut Lowered> {
        let lowered = self.lowered.get_mut(id.0 as usize);
        lowered.ok_or_else(|| Error::Step(format!("no step was lowered as {}", id.0)))
    }
}

/// Refuses weights of formats whose values nobody here can read.
pub(crate) fn check_formats(backend: &'static str, weights: &[Weight]) -> Result<()> {
    match weights.iter().find(|weight| weight.format().support() == Support::Listed) {
        None => Ok(()),
        Some(weight) => Err(Error::Absent {
            backend,
            op: "load",
            what: format!("{} (weight `{}`)", weight.format(), weight.name()),
            reason: "only the size of this format is known; requantise the model to a supported one",
        }),
    }
}

impl Backend for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn description(&self) -> String {
        "reference: slow, f64 arithmetic, for tests".to_owned()
    }

    fn load(&mut self, weights: Vec<Weight>) -> Result<()> {
        check_formats(self.name(), &weights)?;
        self.lowered.clear();
        self.weights = weights;
        Ok(())
    }

    fn create_cache(&mut self, config: &CacheConfig) -> Result<()> {
        self.lowered.clear();
        self.cache = HostCache::default();
        self.cache = HostCache::new(config)?;
        Ok(())
    }

    fn lower(&mut self, step: &Step, bucket: Bucket) -> Result<LoweredId> {
        step.check(&self.weights, self.cache.config())?;
        let id = u32::try_from(self.lowered.len()).map_err(|_| Error::Step("too many steps".to_owned()))?;
        self.lowered.push(Lowered {
            plan: Plan::new(step, bucket)?,
            limits: Limits::new(step, &self.weights, bucket),
            buffers: vec![Vec::new(); step.buffers().len()],
            step: step.clone(),
        });
        Ok(LoweredId(id))
    }

    fn run(&mut self, id: LoweredId, inputs: &StepInputs) -> Result<()> {
        self.get(id)?;
        let lowered = &mut self.lowered[id.0 as usize];
        lowered.limits.check(inputs, self.cache.config())?;
        let buffers = &mut lowered.buffers;
        let mut context =
            Context::new(inputs, &self.weights, &mut self.cache, lowered.step.buffers(), buffers);
        lowered.step.ops().iter().try_for_each(|op| op.reference(&mut context))
    }

    fn read(&mut self, id: LoweredId, buffer: BufferId, out: &mut Vec<f32>) -> Result<()> {
        let lowered = self.get(id)?;
        lowered.plan.require_kept(buffer)?;
        out.clone_from(&lowered.buffers[buffer.0 as usize]);
        Ok(())
    }

    fn write(&mut self, id: LoweredId, buffer: BufferId, values: &[f32]) -> Result<()> {
        let lowered = self.get(id)?;
        let desc = lowered.step.desc(buffer)?;
        lowered.plan.require_input(buffer, desc, values.len())?;
        lowered.buffers[buffer.0 as usize] = values.to_vec();
        Ok(())
    }

    fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> Result<()> {
        self.cache.copy_pages(group, pages)
    }
}
