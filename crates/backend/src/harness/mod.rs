//! Runs every op's cases on a backend and on the reference, and compares.
//!
//! For tests and tools, and for devices that are tested before they are used. Every case is a
//! small step over random weights and buffers, made from a seed that a failure
//! names.

mod build;
mod choices;
mod cuda;
mod heads;
mod layer;
mod random;
mod report;

pub use build::{bias, formats, inputs, matrix, norm_weight, odd_cols, one_layer};
pub use choices::{check_choices, choices};
pub use cuda::cuda;
pub use heads::Heads;
pub use layer::{ModelShape, Used};
pub use random::Random;
pub use report::{Report, check_all, self_test};

use crate::bounds::{self, Bound};
use crate::{Backend, Bucket, BufferId, CacheConfig, Error, Op, Reference, Result, Rows, Step};
use crate::{StepInputs, Weight, WeightId};

/// A step, what it runs on, and how exact it must be.
#[derive(Debug, Clone)]
pub struct Case {
    /// Op, format and shape, unique among all cases.
    pub name: String,
    /// The step.
    pub step: Step,
    /// Its weights.
    pub weights: Vec<Weight>,
    /// Its cache.
    pub cache: CacheConfig,
    /// The inputs of successive runs over the same cache.
    pub runs: Vec<StepInputs>,
    /// Buffers to fill before each run with values up to the magnitude.
    pub fill: Vec<(BufferId, f32)>,
    /// Buffers to compare after each run.
    pub compare: Vec<BufferId>,
    /// How far they may be off.
    pub bound: Bound,
}

/// Collects a case's step and weights.
#[derive(Debug)]
pub struct CaseBuilder<'a> {
    /// Where random values come from.
    pub random: &'a mut Random,
    case: Case,
}

impl<'a> CaseBuilder<'a> {
    /// A case with no ops, buffers, weights or runs.
    pub fn new(random: &'a mut Random, name: String, bound: Bound) -> Self {
        let case = Case {
            name,
            step: Step::new(),
            weights: Vec::new(),
            cache: CacheConfig::default(),
            runs: Vec::new(),
            fill: Vec::new(),
            compare: Vec::new(),
            bound,
        };
        Self { random, case }
    }

    /// A weight made by `make`.
    pub fn weight(&mut self, make: impl FnOnce(&mut Random) -> Weight) -> WeightId {
        self.case.weights.push(make(self.random));
        WeightId(u32::try_from(self.case.weights.len() - 1).expect("a case has few weights"))
    }

    /// A buffer of the tokens' rows.
    pub fn buffer(&mut self, name: &'static str, cols: usize) -> BufferId {
        self.case.step.buffer(name, Rows::Tokens, cols)
    }

    /// A buffer of the outputs' rows.
    pub fn outputs(&mut self, name: &'static str, cols: usize) -> BufferId {
        self.case.step.buffer(name, Rows::Outputs, cols)
    }

    /// A buffer of the tokens' rows filled with values up to `magnitude`.
    pub fn input(&mut self, name: &'static str, cols: usize, magnitude: f32) -> BufferId {
        let id = self.buffer(name, cols);
        self.case.fill.push((id, magnitude));
        id
    }

    /// Appends an op.
    pub fn push(&mut self, op: impl Into<Op>) {
        self.case.step.push(op);
    }

    /// The case over `cache`, run with each of `runs`, comparing `compare`.
    pub fn build(mut self, cache: CacheConfig, runs: Vec<StepInputs>, compare: Vec<BufferId>) -> Case {
        (self.case.cache, self.case.runs, self.case.compare) = (cache, runs, compare);
        self.case
    }

    /// The case run once with `n_tokens` rows of one sequence and no cache.
    pub fn build_rows(self, n_tokens: u32, compare: Vec<BufferId>) -> Case {
        let cache = CacheConfig::default();
        let runs = vec![inputs(&cache, &[(n_tokens, n_tokens)])];
        self.build(cache, runs, compare)
    }
}

impl Case {
    /// The smallest bucket that takes every run.
    pub fn bucket(&self) -> Bucket {
        let most = |count: &dyn Fn(&StepInputs) -> usize| self.runs.iter().map(count).max().unwrap_or(0);
        Bucket {
            tokens: most(&|run| run.tokens.len()),
            sequences: most(&|run| run.sequences.len()),
            outputs: most(&|run| run.outputs.len()),
            max_pages: most(&|run| run.groups.iter().map(|group| group.max_pages).max().unwrap_or(0)),
        }
    }

    /// Every run's compared buffers on `backend`, in order, each with its name.
    ///
    /// # Errors
    /// What the backend says.
    pub fn run_on(&self, backend: &mut dyn Backend, seed: u64) -> Result<Vec<(String, Vec<f32>)>> {
        let mut random = Random::new(seed);
        backend.load(self.weights.clone())?;
        backend.create_cache(&self.cache)?;
        let lowered = backend.lower(&self.step, self.bucket())?;
        let mut results = Vec::new();
        for (index, run) in self.runs.iter().enumerate() {
            for &(id, magnitude) in &self.fill {
                let desc = self.step.desc(id)?;
                let n_rows = match desc.rows {
                    Rows::Tokens => run.tokens.len(),
                    Rows::Outputs => run.outputs.len(),
                };
                backend.write(lowered, id, &random.values(n_rows * desc.cols, magnitude))?;
            }
            backend.run(lowered, run)?;
            for &id in &self.compare {
                let mut values = Vec::new();
                backend.read(lowered, id, &mut values)?;
                results.push((format!("`{}` of run {index}", self.step.desc(id)?.name), values));
            }
        }
        Ok(results)
    }

    /// Runs the case on `backend` and on the reference.
    ///
    /// # Errors
    /// Text for people: what differs by how much, and the seed that shows it.
    pub fn check(&self, backend: &mut dyn Backend, seed: u64) -> Result<Outcome, String> {
        let fail = |what: String| format!("{} on {}, seed {seed}: {what}", self.name, backend.name());
        let expected = self.run_on(&mut Reference::new(), seed).map_err(|e| format!("reference: {e}"));
        let expected = expected.map_err(&fail)?;
        let name = fail(String::new());
        let found = match self.run_on(backend, seed) {
            Err(Error::Absent { reason, .. }) => return Ok(Outcome::Absent(reason)),
            found => found.map_err(|e| format!("{name}{e}"))?,
        };
        let mut bound = self.bound;
        let rounds = |weight: &Weight| backend.rounds_prompts_with(weight.format());
        if backend.rounds_prompts() || self.weights.iter().any(rounds) {
            bound = bound.plus(bounds::BF16_PROMPTS);
        }
        if backend.rounds_scales() {
            bound = bound.plus(bounds::F16_SCALES);
        }
        let mut worst = Bound { max: 0.0, rms: 0.0 };
        for ((what, expected), (_, found)) in expected.iter().zip(&found) {
            let deviation = deviation(expected, found).map_err(|e| format!("{name}{what}: {e}"))?;
            // Written so that NaN fails.
            if !(deviation.max <= bound.max && deviation.rms <= bound.rms) {
                return Err(format!("{name}{what} is off by {deviation:?}, allowed {bound:?}"));
            }
            worst.max = worst.max.max(deviation.max);
            worst.rms = worst.rms.max(deviation.rms);
        }
        Ok(Outcome::Within(worst))
    }
}

/// How a case went that did not fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// The worst deviations of any compared buffer.
    Within(Bound),
    /// The backend says, in writing, that it has no such kernel.
    Absent(&'static str),
}

/// Deviations relative to the root mean square of `expected`.
///
/// # Errors
/// Text for people: lengths that differ, a root mean square that is no scale.
pub fn deviation(expected: &[f32], found: &[f32]) -> Result<Bound, String> {
    if expected.len() != found.len() || expected.is_empty() {
        return Err(format!("has {} elements instead of {}", found.len(), expected.len()));
    }
    let rms = |values: &mut dyn Iterator<Item = f64>| {
        (values.map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt()
    };
    let scale = rms(&mut expected.iter().map(|&x| f64::from(x)));
    if !(scale.is_normal()) {
        return Err(format!("the reference's root mean square is {scale}"));
    }
    let differences = || expected.iter().zip(found).map(|(&x, &y)| f64::from(x) - f64::from(y));
    let max = differences().map(f64::abs).fold(0.0, |max, x| if x <= max { max } else { x });
    Ok(Bound { max: (max / scale) as f32, rms: (rms(&mut differences()) / scale) as f32 })
}

/// Every case of every op, and whole layers, made from `seed`.
pub fn cases(seed: u64) -> Vec<Case> {
    let mut random = Random::new(seed);
    let mut cases = Op::cases(&mut random);
    cases.extend(layer::cases(&mut random));
    cases.extend(heads::cases(&mut random));
    cases
}
