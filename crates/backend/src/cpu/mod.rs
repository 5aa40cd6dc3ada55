//! The CPU: vector kernels chosen at run time, on a pool of threads.
//!
//! Results depend only on a row's own history: not on how many rows a step
//! has, how a prompt was cut, or how many threads there are. Instruction sets
//! differ in the last bits, and those that multiply prompts in bf16 by more.

pub(crate) mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_linear;
mod fused;
pub(crate) mod interleave;
mod isa;
pub(crate) mod linear;
pub(crate) mod math;
pub(crate) mod panel;
mod pool;
pub(crate) mod run;
pub(crate) mod shared;
pub(crate) mod simd;
pub(crate) mod stored;
pub(crate) mod tile;
mod unpack;

pub use isa::Isa;
pub use pool::Pool;

use gguf::Format;

use crate::host::{HostCache, Limits, ZeroedBytes};
use crate::kernels::rope_store::RopeStore;
use crate::reference::check_formats;
use crate::{Backend, Bucket, BufferId, CacheConfig, Error, LoweredId, Memory, Op, Plan, Result, Step};
use crate::{StepInputs, Weight, WeightId};
use interleave::{Interleaved, Pending};
use run::{Angles, RowOrder, Run, Sizes};
use shared::{Bump, Shared};

/// How to use the processor.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuConfig {
    /// Threads that compute, the caller's included; `None` for one a core.
    pub threads: Option<usize>,
    /// Instruction set; `None` for the fastest there is.
    pub isa: Option<Isa>,
    /// Where weights are read from.
    pub weights: WeightLayout,
}

/// How weights of linear maps lie in memory. Results are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightLayout {
    /// Interleaved where there is memory for it, else mapped. They are copied
    /// a part before each of the first steps, so that the first token does not
    /// wait for all of them.
    #[default]
    Auto,
    /// As in the file, which stays mapped: nothing is copied.
    Mapped,
    /// Copied, all while steps are lowered, into panels of sixteen rows; the
    /// mapped file's memory is given back.
    Interleaved,
}

/// The CPU backend.
pub struct Cpu {
    pool: Pool,
    isa: Isa,
    weights: Vec<Weight>,
    layout: WeightLayout,
    /// Weights of linear maps in a layout that loads faster, where there is memory.
    interleaved: Vec<Option<Interleaved>>,
    /// What is to be interleaved before the next steps.
    pending: Pending,
    /// F32 weights of one row, aligned.
    vectors: Vec<Option<Box<[f32]>>>,
    cache: HostCache,
    lowered: Vec<Lowered>,
    /// Buffers of the step that ran last.
    arena: ZeroedBytes,
    /// What ops need while they run.
    scratch: ZeroedBytes,
    order: RowOrder,
    angles: Angles,
    /// The step that ran last, with its tokens and outputs.
    last: Option<(LoweredId, usize, usize)>,
}

struct Lowered {
    step: Step,
    plan: Plan,
    limits: Limits,
}

/// The weights that an op multiplies with.
fn linear_weights(op: &Op) -> Vec<WeightId> {
    match op {
        Op::Embed(_) | Op::RmsNorm(_) | Op::RopeStore(_) | Op::PagedAttention(_) => vec![],
        Op::NormLinear(op) => op.projections.iter().map(|projection| projection.weight).collect(),
        Op::LinearAdd(op) => vec![op.weight],
        Op::SwigluLinearAdd(op) => vec![op.weight],
        Op::MoeAdd(op) => vec![op.router, op.gate, op.up, op.down],
        Op::Head(op) => vec![op.weight],
    }
}

const ADVICE: &str = "use smaller batches";

/// More threads than any machine has cores.
const MAX_THREADS: usize = 1024;

impl Cpu {
    /// A backend with no weights and no cache.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for instructions that the processor lacks, or
    /// when the system refuses threads.
    pub fn new(config: CpuConfig) -> Result<Self> {
        let isa = Isa::choose(config.isa)?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = config.threads.unwrap_or_else(cores);
        let unavailable = |reason: String| Error::Unavailable { backend: "cpu", reason };
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(unavailable(format!(
                "{threads} threads were asked for, 1 to {MAX_THREADS} can be had"
            )));
        }
        let pool = Pool::new(threads)
            .map_err(|error| unavailable(format!("the system refused {threads} threads: {error}")))?;
        Ok(Self {
            pool,
            isa,
            weights: Vec::new(),
            layout: config.weights,
            interleaved: Vec::new(),
            pending: Pending::default(),
            vectors: Vec::new(),
            cache: HostCache::default(),
            lowered: Vec::new(),
            arena: ZeroedBytes::default(),
            scratch: ZeroedBytes::default(),
            order: RowOrder::default(),
            angles: Angles::default(),
            last: None,
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn get(&self, id: LoweredId) -> Result<&Lowered> {
        let lowered = self.lowered.get(id.0 as usize);
        lowered.ok_or_else(|| Error::Step(format!("no step was lowered as {}", id.0)))
    }

    /// Interleaves the weights of the step's linear maps, as far as the layout
    /// asks for it: now, or as [`WeightLayout::Auto`] does.
    fn plan_layout(&mut self, step: &Step) -> Result<()> {
        let wanted = |id: &WeightId| -> bool {
            let i = id.0 as usize;
            self.interleaved[i].is_none() && Interleaved::takes(&self.weights[i])
        };
        let ids = || step.ops().iter().flat_map(linear_weights).filter(wanted);
        match self.layout {
            WeightLayout::Mapped => Ok(()),
            WeightLayout::Interleaved => {
                let mut ids: Vec<WeightId> = ids().collect();
                ids.sort_unstable();
                ids.dedup();
                self.interleave(&ids)
            }
            WeightLayout::Auto => {
                self.pending.add(ids(), &self.weights);
                // The mapped file's memory is given back weight by weight, so that no
                // more than the largest is held twice.
                let fits = |memory: Memory| self.pending.bytes() <= memory.available / 10 * 9;
                if !Memory::now().is_none_or(fits) {
                    self.pending = Pending::default();
                }
                Ok(())
            }
        }
    }

    /// Interleaves a part of what is pending, before a step of `rows`.
    fn interleave_part(&mut self, rows: usize) -> Result<()> {
        let ids = self.pending.take(rows, &self.weights);
        match self.interleave(&ids) {
            // There was memory for it when the step was lowered, and all works without.
            Err(Error::OutOfMemory { .. }) => self.pending = Pending::default(),
            done => done?,
        }
        Ok(())
    }

    fn interleave(&mut self, ids: &[WeightId]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let weights: Vec<&Weight> = ids.iter().map(|id| &self.weights[id.0 as usize]).collect();
        let interleaved = Interleaved::new(&weights, self.isa, &mut self.pool)?;
        for (id, interleaved) in ids.iter().zip(interleaved) {
            self.interleaved[id.0 as usize] = Some(interleaved);
        }
        Ok(())
    }

    /// Scratch that the hungriest op of `step` takes.
    fn scratch_bytes(&self, step: &Step, bucket: Bucket) -> usize {
        let sizes = Sizes {
            tokens: bucket.tokens,
            outputs: bucket.outputs,
            threads: self.pool.threads(),
            isa: self.isa,
            weights: &self.weights,
            descs: step.buffers(),
            cache: self.cache.config(),
        };
        let bytes = step.ops().iter().map(|op| {
            let mut bump = Bump::counting();
            op.cpu_scratch(&sizes, &mut bump);
            bump.used()
        });
        bytes.max().unwrap_or(0)
    }
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> String {
        let threads = self.pool.threads();
        format!("cpu: {threads} thread{}, {}", if threads == 1 { "" } else { "s" }, self.isa.name())
    }

    fn memory(&self) -> Option<Memory> {
        Memory::now()
    }

    fn rounds_prompts(&self) -> bool {
        let form = |role| linear::form(Format::BF16, self.isa, role);
        form(crate::Role::Prompt) != form(crate::Role::Generated)
    }

    fn load(&mut self, weights: Vec<Weight>) -> Result<()> {
        check_formats(self.name(), &weights)?;
        self.lowered.clear();
        self.last = None;
        let vector = |weight: &Weight| {
            if weight.rows() != 1 || weight.format() != Format::F32 {
                return Ok(None);
            }
            let mut values = vec![0.0; weight.cols()].into_boxed_slice();
            weight.dequantize_row(0, &mut values)?;
            Ok(Some(values))
        };
        self.vectors = weights.iter().map(vector).collect::<Result<_>>()?;
        self.interleaved = weights.iter().map(|_| None).collect();
        self.pending = Pending::default();
        self.weights = weights;
        Ok(())
    }

    fn create_cache(&mut self, config: &CacheConfig) -> Result<()> {
        self.lowered.clear();
        self.last = None;
        // The old one goes first: there may not be room for both.
        self.cache = HostCache::default();
        self.cache = HostCache::new(config)?;
        Ok(())
    }

    fn lower(&mut self, step: &Step, bucket: Bucket) -> Result<LoweredId> {
        step.check(&self.weights, self.cache.config())?;
        self.plan_layout(step)?;
        let plan = Plan::new(step, bucket)?;
        let scratch = self.scratch_bytes(step, bucket);
        if plan.bytes() > self.arena.len() {
            self.last = None;
            self.arena = ZeroedBytes::default();
            self.arena = ZeroedBytes::new("the buffers of a step", plan.bytes(), ADVICE)?;
        }
        if scratch > self.scratch.len() {
            self.scratch = ZeroedBytes::default();
            self.scratch = ZeroedBytes::new("the scratch of a step", scratch, ADVICE)?;
        }
        let numbers = step.ops().iter().map(|op| op.cpu_numbers(bucket)).max().unwrap_or(0);
        self.order.reserve(bucket.tokens, numbers);
        for op in step.ops() {
            if let Op::RopeStore(RopeStore { rope: Some(rope), .. }) = op {
                self.angles.reserve(&rope.inv_freq, rope.magnitude, bucket.tokens);
            }
        }
        let id = u32::try_from(self.lowered.len()).map_err(|_| Error::Step("too many steps".to_owned()))?;
        let limits = Limits::new(step, &self.weights, bucket);
        self.lowered.push(Lowered { step: step.clone(), plan, limits });
        Ok(LoweredId(id))
    }

    fn run(&mut self, id: LoweredId, inputs: &StepInputs) -> Result<()> {
        self.get(id)?.limits.check(inputs, self.cache.config())?;
        self.interleave_part(inputs.tokens.len())?;
        let lowered = &self.lowered[id.0 as usize];
        let (tokens, outputs) = (inputs.tokens.len(), inputs.outputs.len());
        let (cache, layers) = self.cache.split();
        self.order.fill(inputs);
        self.angles.clear();
        let mut run = Run {
            isa: self.isa,
            inputs,
            order: &self.order,
            angles: &mut self.angles,
            sizes: Sizes {
                tokens,
                outputs,
                threads: self.pool.threads(),
                isa: self.isa,
                weights: &self.weights,
                descs: lowered.step.buffers(),
                cache,
            },
            pool: &mut self.pool,
            layers,
            vectors: &self.vectors,
            interleaved: &self.interleaved,
            plan: &lowered.plan,
            arena: Shared::new(bytemuck::cast_slice_mut(self.arena.as_mut_slice())),
        };
        for op in lowered.step.ops() {
            op.cpu(&mut run, self.scratch.as_mut_slice());
        }
        self.last = Some((id, tokens, outputs));
        Ok(())
    }

    fn read(&mut self, id: LoweredId, buffer: BufferId, out: &mut Vec<f32>) -> Result<()> {
        let lowered = self.get(id)?;
        let place = *lowered.plan.require_kept(buffer)?;
        let desc = lowered.step.desc(buffer)?;
        let Some((_, tokens, outputs)) = self.last.filter(|(last, ..)| *last == id) else {
            return Err(Error::Step("another step ran since, or none did".to_owned()));
        };
        let n = desc.cols * if desc.rows == crate::Rows::Tokens { tokens } else { outputs };
        let values: &[f32] = bytemuck::cast_slice(&self.arena.as_slice()[place.offset..place.offset + 4 * n]);
        out.clear();
        out.extend_from_slice(values);
        Ok(())
    }

    fn write(&mut self, id: LoweredId, buffer: BufferId, values: &[f32]) -> Result<()> {
        let lowered = self.get(id)?;
        let desc = lowered.step.desc(buffer)?;
        let offset = lowered.plan.require_input(buffer, desc, values.len())?.offset;
        let bytes = &mut self.arena.as_mut_slice()[offset..offset + 4 * values.len()];
        bytes.copy_from_slice(bytemuck::cast_slice(values));
        Ok(())
    }

    fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> Result<()> {
        self.cache.copy_pages(group, pages)
    }
}
