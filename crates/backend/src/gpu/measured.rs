//! Which of a choice is faster for a model on the device that there is.

use std::time::{Duration, Instant};

use super::{Gpu, Multiplier, PromptMaps, Runtime};
use crate::kernels::norm_linear::{NormLinear, Projection};
use crate::{Backend, Bucket, CacheConfig, Op, Result, Rows, Step, Weight, WeightId, harness};

/// Rows of the prompt that is multiplied: what a step of the Metal backend has at most.
const ROWS: u32 = 512;
/// Runs that are timed together, behind one that is not.
const RUNS: u32 = 3;

impl<R: Runtime> Gpu<R> {
    /// What multiplies the rows of prompts: of all steps of a model, so that a row's bits do not depend on
    /// the bucket.
    pub(super) fn multiplier(&mut self, step: &Step) -> Result<Multiplier> {
        match (self.runtime.prompt_maps(), self.multiplier) {
            (PromptMaps::By(multiplier), _) | (PromptMaps::Fastest, Some(multiplier)) => Ok(multiplier),
            (PromptMaps::Fastest, None) => {
                let largest = largest_map(step, &self.weights).cloned();
                let fastest = largest.map_or(Ok(Multiplier::default()), |weight| self.measure(weight))?;
                self.multiplier = Some(fastest);
                Ok(fastest)
            }
        }
    }

    /// The fastest with `weight`, before any step of the model was lowered.
    fn measure(&mut self, weight: Weight) -> Result<Multiplier> {
        let name = weight.name().to_owned();
        let weights = std::mem::replace(&mut self.weights, vec![weight]);
        let cache = std::mem::take(&mut self.cache);
        let multipliers = self.runtime.multipliers();
        let times: Result<Vec<_>> = multipliers.into_iter().filter_map(|by| self.try_time(by)).collect();
        self.lowered.clear();
        self.device_weights.clear();
        (self.arena, self.inputs, self.chosen) = (None, None, None);
        (self.weights, self.cache, self.multiplier) = (weights, cache, None);
        let times = times?;
        tracing::info!("{ROWS} rows by {name} take, by what multiplies them: {times:?}");
        let fastest = times.into_iter().min_by_key(|(_, time)| *time);
        Ok(fastest.map_or(Multiplier::default(), |(multiplier, _)| multiplier))
    }

    /// How long it takes; `None` where it does not work here, which is said, since others do.
    fn try_time(&mut self, multiplier: Multiplier) -> Option<Result<(Multiplier, Duration)>> {
        match self.time(multiplier) {
            Err(error) if multiplier != Multiplier::Kernels => {
                tracing::warn!("prompts are not multiplied by {multiplier:?}: {error}");
                None
            }
            time => Some(time.map(|time| (multiplier, time))),
        }
    }

    /// How long a prompt's rows by the one weight take.
    fn time(&mut self, multiplier: Multiplier) -> Result<Duration> {
        self.multiplier = Some(multiplier);
        let mut step = Step::new();
        let x = step.buffer("x", Rows::Tokens, self.weights[0].cols());
        let out = step.buffer("out", Rows::Tokens, self.weights[0].rows());
        let projections = vec![Projection { weight: WeightId(0), bias: None, out }];
        step.push(NormLinear { x, norm: None, projections });
        let tokens = ROWS as usize;
        let id = self.lower(&step, Bucket { tokens, sequences: 1, outputs: 1, max_pages: 0 })?;
        let inputs = harness::inputs(&CacheConfig::default(), &[(ROWS, ROWS)]);
        let mut values = Vec::new();
        self.run(id, &inputs)?;
        self.read(id, out, &mut values)?;
        let start = Instant::now();
        (0..RUNS).try_for_each(|_| self.run(id, &inputs))?;
        self.read(id, out, &mut values)?;
        Ok(start.elapsed())
    }
}

/// The largest weight that the rows of prompts are multiplied by.
fn largest_map<'a>(step: &Step, weights: &'a [Weight]) -> Option<&'a Weight> {
    let maps = step.ops().iter().flat_map(|op| match op {
        Op::NormLinear(op) => op.projections.iter().map(|projection| projection.weight).collect(),
        Op::LinearAdd(op) => vec![op.weight],
        Op::SwigluLinearAdd(op) => vec![op.weight],
        _ => Vec::new(),
    });
    maps.map(|id| &weights[id.0 as usize]).max_by_key(|weight| weight.rows() * weight.cols())
}
