//! Which of a choice is faster for a model on the device that there is.

use std::time::{Duration, Instant};

use super::{Gpu, PromptMaps, Runtime};
use crate::kernels::norm_linear::{NormLinear, Projection};
use crate::{Backend, Bucket, CacheConfig, Op, Result, Rows, Step, Weight, WeightId, harness};

/// Rows of the prompt that is multiplied: what a step of the Metal backend has at most.
const ROWS: u32 = 512;
/// Runs that are timed together, behind one that is not.
const RUNS: u32 = 3;

impl<R: Runtime> Gpu<R> {
    /// Whether the driver's own library multiplies the rows of prompts: of all steps of a model, so that
    /// a row's bits do not depend on the bucket.
    pub(super) fn multiplies(&mut self, step: &Step) -> Result<bool> {
        match (self.runtime.prompt_maps(), self.is_library_faster) {
            (PromptMaps::Kernels, _) => Ok(false),
            (PromptMaps::Library, _) => Ok(true),
            (PromptMaps::Fastest, Some(is_faster)) => Ok(is_faster),
            (PromptMaps::Fastest, None) => {
                let largest = largest_map(step, &self.weights).cloned();
                let is_faster = largest.map_or(Ok(false), |weight| self.measure(weight))?;
                self.is_library_faster = Some(is_faster);
                Ok(is_faster)
            }
        }
    }

    /// Whether it is faster with `weight`, before any step of the model was lowered.
    fn measure(&mut self, weight: Weight) -> Result<bool> {
        let name = weight.name().to_owned();
        let weights = std::mem::replace(&mut self.weights, vec![weight]);
        let cache = std::mem::take(&mut self.cache);
        let [kernels, library] = [false, true].map(|library| self.time(library));
        self.lowered.clear();
        self.device_weights.clear();
        (self.arena, self.inputs, self.chosen) = (None, None, None);
        (self.weights, self.cache, self.is_library_faster) = (weights, cache, None);
        let (kernels, library) = (kernels?, library?);
        tracing::info!("{ROWS} rows by {name}: kernels take {kernels:?}, the driver's library {library:?}");
        Ok(library < kernels)
    }

    /// How long a prompt's rows by the one weight take.
    fn time(&mut self, library: bool) -> Result<Duration> {
        self.is_library_faster = Some(library);
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
