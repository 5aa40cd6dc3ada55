//! A backend for any GPU: lowering, memory and inputs are common, a
//! [`Runtime`] is what differs between drivers.
//!
//! A step becomes a list of launches whose arguments never change ([`lower`]);
//! each op says in its `gpu.rs` which. What differs from run to run, the number
//! of rows included, lies in one array on the device ([`inputs`]), so that a
//! run is one copy and the launches, and a graph of them can be replayed.
//!
//! Kernels have the same names, arguments and threads in both dialects. Their
//! bodies are written once, in the op's `.h` over `include/dialect.h`, for as
//! long as that costs no speed; entry points are in the op's `.cu` and `.metal`.
//!
//! To add a weight format: `unpack` and its places in `include/formats.h`, a row
//! of `WEIGHT_FORMATS` there, its name in `formats.rs`.

pub(crate) mod args;
pub(crate) mod formats;
pub(crate) mod inputs;
pub(crate) mod linear;
pub(crate) mod lower;
mod runtime;
pub mod source;

pub use formats::support;
pub use runtime::{Groups, Runtime};

use crate::host::Limits;
use crate::{Backend, Bucket, BufferId, CacheConfig, Error, LoweredId, Memory, Place, Plan, Result, Rows};
use crate::{Step, StepInputs, TokenInputs, Weight};
use inputs::Layout;
use lower::{Argument, Grid, Launch, Lowering};

const ADVICE: &str = "use a smaller model or format, a shorter context or fewer sequences";

/// A GPU behind its driver.
pub struct Gpu<R: Runtime> {
    runtime: R,
    weights: Vec<Weight>,
    device_weights: Vec<R::Buffer>,
    cache: CacheConfig,
    /// Keys and values of each layer.
    layers: Vec<(R::Buffer, R::Buffer)>,
    lowered: Vec<Lowered<R>>,
    arena: Option<(R::Buffer, usize)>,
    inputs: Option<(R::Buffer, usize)>,
    words: Vec<u32>,
}

struct Lowered<R: Runtime> {
    step: Step,
    plan: Plan,
    limits: Limits,
    layout: Layout,
    launches: Vec<(Launch, R::Kernel)>,
    tables: R::Buffer,
    /// Tokens and outputs of the last run, or of the bucket before it.
    rows: (usize, usize),
}

impl<R: Runtime> Gpu<R> {
    /// A backend with no weights and no cache.
    pub fn new(runtime: R) -> Self {
        Self {
            runtime,
            weights: Vec::new(),
            device_weights: Vec::new(),
            cache: CacheConfig::default(),
            layers: Vec::new(),
            lowered: Vec::new(),
            arena: None,
            inputs: None,
            words: Vec::new(),
        }
    }

    /// The driver, for measurements.
    pub fn runtime(&mut self) -> &mut R {
        &mut self.runtime
    }

    fn get(&self, id: LoweredId) -> Result<&Lowered<R>> {
        let lowered = self.lowered.get(id.0 as usize);
        lowered.ok_or_else(|| Error::Step(format!("no step was lowered as {}", id.0)))
    }

    /// An error unless `needed` more bytes fit.
    fn require_memory(&self, what: &str, needed: u64) -> Result<()> {
        match self.runtime.memory() {
            Some(memory) if needed > memory.available => Err(Error::OutOfMemory {
                what: what.to_owned(),
                needed,
                available: memory.available,
                total: memory.total,
                advice: ADVICE.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Makes arena and inputs at least as large as a lowered step needs.
    fn reserve(&mut self, arena_bytes: usize, input_words: usize) -> Result<()> {
        let wanted =
            [(&mut self.arena, arena_bytes, "scratch"), (&mut self.inputs, input_words * 4, "inputs")];
        for (buffer, bytes, what) in wanted {
            if buffer.as_ref().is_none_or(|(_, size)| *size < bytes) {
                // The old one first: both together may not fit.
                *buffer = None;
                *buffer = Some((self.runtime.allocate(what, bytes)?, bytes));
            }
        }
        Ok(())
    }

    fn upload_inputs(&mut self, id: LoweredId, inputs: &StepInputs) -> Result<()> {
        self.lowered[id.0 as usize].layout.pack(inputs, &mut self.words);
        let (buffer, _) = self.inputs.as_ref().expect("lowering reserved it");
        self.runtime.upload(buffer, 0, bytemuck::cast_slice(&self.words))
    }

    fn launch_all(&mut self, id: LoweredId, inputs: &StepInputs) -> Result<()> {
        let lowered = &self.lowered[id.0 as usize];
        let (arena, _) = self.arena.as_ref().expect("lowering reserved it");
        let (input_words, _) = self.inputs.as_ref().expect("lowering reserved it");
        for (launch, kernel) in &lowered.launches {
            let buffer = |argument: &Argument| match *argument {
                Argument::Inputs => (input_words, 0),
                Argument::Weight(id) => (&self.device_weights[id.0 as usize], 0),
                Argument::Arena(offset) => (arena, offset),
                Argument::Tables(offset) => (&lowered.tables, offset),
                Argument::Keys(id) => (&self.layers[id.0 as usize].0, 0),
                Argument::Values(id) => (&self.layers[id.0 as usize].1, 0),
            };
            let buffers: Vec<_> = launch.buffers.iter().map(buffer).collect();
            if let (true, TokenInputs::Embeddings { values, .. }) = (launch.embeds, &inputs.tokens) {
                let (to, offset) = *buffers.last().expect("an embedding has its output last");
                self.runtime.upload(to, offset, bytemuck::cast_slice(values))?;
                continue;
            }
            let groups = launch.grid.groups(inputs.tokens.len(), inputs.outputs.len());
            if groups.1 > 0 {
                self.runtime.launch(kernel, groups, launch.grid.threads, &launch.args, &buffers)?;
            }
        }
        Ok(())
    }
}

impl Grid {
    fn groups(&self, tokens: usize, outputs: usize) -> Groups {
        let rows = match self.rows {
            Rows::Tokens => tokens,
            Rows::Outputs => outputs,
        };
        // Both were checked against the bucket, which was checked to fit.
        (self.x, (rows as u32).div_ceil(self.rows_each))
    }
}

impl<R: Runtime> Backend for Gpu<R> {
    fn name(&self) -> &'static str {
        self.runtime.name()
    }

    fn description(&self) -> String {
        self.runtime.description()
    }

    fn memory(&self) -> Option<Memory> {
        self.runtime.memory()
    }

    fn load(&mut self, weights: Vec<Weight>) -> Result<()> {
        for weight in &weights {
            formats::kernel_name(weight.format()).map_err(|reason| Error::Absent {
                backend: self.runtime.name(),
                op: "load",
                what: format!("{} (weight `{}`)", weight.format(), weight.name()),
                reason,
            })?;
        }
        self.lowered.clear();
        self.device_weights.clear();
        let bytes = weights.iter().map(|weight| weight.bytes().len() as u64).sum();
        self.require_memory("the weights", bytes)?;
        for weight in &weights {
            let buffer = self.runtime.allocate(weight.name(), weight.bytes().len())?;
            self.runtime.upload(&buffer, 0, weight.bytes())?;
            self.device_weights.push(buffer);
        }
        self.weights = weights;
        Ok(())
    }

    fn create_cache(&mut self, config: &CacheConfig) -> Result<()> {
        config.check()?;
        self.lowered.clear();
        self.layers.clear();
        let sizes: Option<Vec<_>> = config.layers.iter().map(|layer| layer_bytes(config, layer)).collect();
        let sizes =
            sizes.ok_or_else(|| Error::Step("the cache is larger than can be addressed".to_owned()))?;
        self.require_memory("the KV cache", sizes.iter().map(|&(k, v)| k as u64 + v as u64).sum())?;
        for (k, v) in sizes {
            let k = self.runtime.allocate("the KV cache", k)?;
            self.layers.push((k, self.runtime.allocate("the KV cache", v)?));
        }
        self.cache = config.clone();
        Ok(())
    }

    fn lower(&mut self, step: &Step, bucket: Bucket) -> Result<LoweredId> {
        step.check(&self.weights, &self.cache)?;
        let id = u32::try_from(self.lowered.len()).map_err(|_| Error::Step("too many steps".to_owned()))?;
        let plan = Plan::new(step, bucket)?;
        let too_large = || Error::Step(format!("{bucket:?} is larger than kernels can count"));
        let layout = Layout::new(bucket, &self.cache).ok_or_else(too_large)?;
        let name = self.runtime.name();
        let lowering = Lowering::new(name, step, bucket, (&self.weights, &self.cache), (&layout, &plan))?;
        let arena_bytes = lowering.arena_bytes();
        let Lowering { launches, tables, .. } = lowering;
        let with_kernel = launches.into_iter().map(|launch| {
            let kernel = self.runtime.kernel(launch.source, launch.format, &launch.entry)?;
            Ok((launch, kernel))
        });
        let launches = with_kernel.collect::<Result<_>>()?;
        let device_tables = self.runtime.allocate("tables", tables.len() * 4)?;
        self.runtime.upload(&device_tables, 0, bytemuck::cast_slice(&tables))?;
        self.reserve(arena_bytes, layout.words)?;
        self.lowered.push(Lowered {
            limits: Limits::new(step, &self.weights, bucket),
            step: step.clone(),
            rows: (bucket.tokens, bucket.outputs),
            plan,
            layout,
            launches,
            tables: device_tables,
        });
        Ok(LoweredId(id))
    }

    fn run(&mut self, id: LoweredId, inputs: &StepInputs) -> Result<()> {
        self.get(id)?.limits.check(inputs, &self.cache)?;
        self.upload_inputs(id, inputs)?;
        self.launch_all(id, inputs)?;
        self.lowered[id.0 as usize].rows = (inputs.tokens.len(), inputs.outputs.len());
        Ok(())
    }

    fn read(&mut self, id: LoweredId, buffer: BufferId, out: &mut Vec<f32>) -> Result<()> {
        let lowered = self.get(id)?;
        let desc = lowered.step.desc(buffer)?;
        let Place { offset, .. } = *lowered.plan.require_kept(buffer)?;
        let rows = match desc.rows {
            Rows::Tokens => lowered.rows.0,
            Rows::Outputs => lowered.rows.1,
        };
        out.clear();
        out.resize(rows * desc.cols, 0.0);
        let (arena, _) = self.arena.as_ref().expect("lowering reserved it");
        self.runtime.download(arena, offset, bytemuck::cast_slice_mut(out))
    }

    fn write(&mut self, id: LoweredId, buffer: BufferId, values: &[f32]) -> Result<()> {
        let lowered = self.get(id)?;
        let desc = lowered.step.desc(buffer)?;
        let Place { offset, .. } = *lowered.plan.require_input(buffer, desc, values.len())?;
        let (arena, _) = self.arena.as_ref().expect("lowering reserved it");
        self.runtime.upload(arena, offset, bytemuck::cast_slice(values))
    }

    fn copy_pages(&mut self, group: usize, pages: &[(u32, u32)]) -> Result<()> {
        let Some(config) = self.cache.groups.get(group) else {
            return Err(Error::Inputs(format!("there is no cache group {group}")));
        };
        let n_pages = config.n_pages;
        if let Some((from, to)) = pages.iter().find(|(from, to)| from.max(to) >= &n_pages) {
            return Err(Error::Inputs(format!(
                "cannot copy page {from} to {to}: group {group} has {n_pages} pages"
            )));
        }
        for (layer, (k, v)) in self.cache.layers.iter().zip(&self.layers) {
            let (k_bytes, v_bytes) = layer_bytes(&self.cache, layer).expect("it was allocated");
            for (buffer, bytes) in [(k, k_bytes), (v, v_bytes)] {
                let page = bytes / n_pages as usize;
                let distinct = pages.iter().filter(|(from, to)| layer.group == group && from != to);
                for &(from, to) in distinct {
                    self.runtime.copy_within(buffer, from as usize * page, to as usize * page, page)?;
                }
            }
        }
        Ok(())
    }
}

/// Bytes of a layer's keys and values.
fn layer_bytes(config: &CacheConfig, layer: &crate::CacheLayerConfig) -> Option<(usize, usize)> {
    let group = &config.groups[layer.group];
    let heads =
        (group.n_pages as usize).checked_mul(group.page_size as usize)?.checked_mul(layer.n_kv_heads)?;
    let bytes = |vector: usize| heads.checked_mul(vector).filter(|&n| n <= isize::MAX as usize);
    Some((bytes(layer.k_format.bytes(layer.k_dim))?, bytes(layer.v_format.bytes(layer.v_dim))?))
}
