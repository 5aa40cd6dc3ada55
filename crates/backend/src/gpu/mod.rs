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
//! Where CUDA has matrix instructions linear maps read weights in tiles ([`tiles`]);
//! `Packing::of` says which of them a format becomes. On Metal they have kernels of
//! their own ([`simd`]), and prompts may go through the framework's products of matrices
//! ([`Runtime::multiply`]).
//!
//! To add a weight format to the kernels that read it as it is in the file:
//! `unpack` and its places in the family's header (`include/formats.h` names them), a row of
//! `WEIGHT_FORMATS` there, its `Part` beside those of `simd/weight_parts.h`, its name in `formats.rs`.

pub(crate) mod args;
mod beside;
pub(crate) mod choose;
pub(crate) mod formats;
mod hazards;
pub(crate) mod inputs;
pub(crate) mod items;
pub(crate) mod linear;
pub(crate) mod lower;
mod lowered;
mod measured;
mod paper;
mod product;
mod runtime;
pub(crate) mod simd;
pub mod source;
mod submit;
pub(crate) mod tiles;
mod work;

use std::collections::{HashMap, VecDeque};

pub use formats::{support, support_with_tiles};
pub use paper::{Notes, Paper, PaperLaunch};
pub use runtime::{Activations, Groups, Library, Matrices, Multiplier, PromptMaps, Runtime, Shape};
pub use work::Work;

use gguf::Format;

use crate::host::Limits;
use crate::{Backend, Bucket, BufferId, CacheConfig, Error, LoweredId, Memory, Place, Plan, Result, Rows};
use crate::{Completed, Step, StepInputs, Submission, TokenInputs, Weight};
use beside::Beside;
use inputs::{Asked, Layout, RowOrder};
use lower::{Argument, Device, Launch, Lowering};
use lowered::{Draft, Lowered, StepMemory};
use submit::Submitted;
use tiles::pack::pack;
use tiles::packing::Packing;
use work::{Cost, Seen};

const ADVICE: &str = "use a smaller model or format, a shorter context or fewer sequences";

/// A GPU behind its driver.
pub struct Gpu<R: Runtime> {
    runtime: R,
    weights: Vec<Weight>,
    /// Weights on the device, as the file has them or in tiles, each as some step reads it.
    device_weights: HashMap<Argument, R::Buffer>,
    cache: CacheConfig,
    /// Keys and values of each layer.
    layers: Vec<(R::Buffer, R::Buffer)>,
    lowered: Vec<Lowered<R>>,
    arena: Option<(R::Buffer, usize)>,
    inputs: Option<(R::Buffer, usize)>,
    /// The tokens chosen last, and pairs of the likeliest with their logits.
    chosen: Option<(R::Buffer, usize)>,
    /// Steps that were submitted, the oldest first.
    submitted: VecDeque<Submitted<R::Fetch>>,
    words: Vec<u32>,
    /// Buffers set from outside for the next run of a step.
    written: Vec<(LoweredId, BufferId, Vec<f32>)>,
    /// What was measured of the loaded model ([`PromptMaps::Fastest`]).
    multiplier: Option<Multiplier>,
}

impl<R: Runtime> Gpu<R> {
    /// A backend with no weights and no cache.
    pub fn new(runtime: R) -> Self {
        Self {
            runtime,
            weights: Vec::new(),
            device_weights: HashMap::new(),
            cache: CacheConfig::default(),
            layers: Vec::new(),
            lowered: Vec::new(),
            arena: None,
            inputs: None,
            chosen: None,
            submitted: VecDeque::new(),
            words: Vec::new(),
            written: Vec::new(),
            multiplier: None,
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

    /// A step's launches for a bucket.
    fn draft(&mut self, step: &Step, bucket: Bucket) -> Result<Draft> {
        let plan = Plan::new(step, bucket)?;
        let too_large = || Error::Step(format!("{bucket:?} is larger than kernels can count"));
        let layout = Layout::new(bucket, &self.cache).ok_or_else(too_large)?;
        let device = Device { multiplier: self.multiplier(step)?, ..Device::of(&self.runtime) };
        let lowering = Lowering::new(device, step, bucket, (&self.weights, &self.cache), (&layout, &plan))?;
        let arena_bytes = lowering.arena_bytes();
        let Lowering { launches, tables, .. } = lowering;
        Ok(Draft { bucket, plan, layout, launches, tables, arena_bytes })
    }

    /// Brings to the device what a draft needs.
    fn finish(&mut self, step: &Step, draft: Draft) -> Result<LoweredId> {
        let id = u32::try_from(self.lowered.len()).map_err(|_| Error::Step("too many steps".to_owned()))?;
        let Draft { bucket, plan, layout, launches, tables, arena_bytes } = draft;
        let beside = match self.runtime.has_second_queue() {
            true => Beside::find(&launches, step, (bucket, &plan), arena_bytes)?,
            false => None,
        };
        let arena_bytes = beside.as_ref().map_or(arena_bytes, Beside::arena_bytes);
        self.upload_weights(&launches)?;
        let with_kernel = launches.into_iter().map(|launch| {
            let kernel =
                self.runtime.kernel(launch.source, &launch.definitions, &launch.entry, launch.shared)?;
            let cost = Cost::of(&launch, step, &self.weights, &self.cache);
            Ok((launch, kernel, cost))
        });
        let launches = with_kernel.collect::<Result<_>>()?;
        let device_tables = self.runtime.allocate("tables", tables.len() * 4)?;
        self.runtime.upload(&device_tables, 0, bytemuck::cast_slice(&tables))?;
        self.reserve(arena_bytes, layout.words, bucket.outputs)?;
        self.lowered.push(Lowered {
            limits: Limits::new(step, &self.weights, bucket),
            step: step.clone(),
            bucket,
            graphs: HashMap::new(),
            order: RowOrder::default(),
            batches: Vec::new(),
            rows: (bucket.tokens, bucket.outputs),
            plan,
            layout,
            launches,
            tables: device_tables,
            beside,
        });
        Ok(LoweredId(id))
    }

    /// Makes arena, inputs and chosen tokens at least as large as a lowered step needs.
    fn reserve(&mut self, arena_bytes: usize, input_words: usize, outputs: usize) -> Result<()> {
        let wanted = [
            (&mut self.arena, arena_bytes, "scratch"),
            (&mut self.inputs, input_words * 4, "inputs"),
            (&mut self.chosen, choose::bytes(outputs), "chosen tokens"),
        ];
        for (buffer, bytes, what) in wanted {
            if buffer.as_ref().is_none_or(|(_, size)| *size < bytes) {
                // They hold the address of what is replaced.
                self.lowered.iter_mut().for_each(|lowered| lowered.graphs.clear());
                // The old one first: both together may not fit.
                *buffer = None;
                *buffer = Some((self.runtime.allocate(what, bytes)?, bytes));
            }
        }
        Ok(())
    }

    /// Puts the weights that launches read on the device, those that are not there yet.
    fn upload_weights(&mut self, launches: &[Launch]) -> Result<()> {
        for &argument in launches.iter().flat_map(|launch| &launch.buffers) {
            let (Argument::Weight(id) | Argument::Tiles(id)) = argument else { continue };
            if self.device_weights.contains_key(&argument) {
                continue;
            }
            let weight = &self.weights[id.0 as usize];
            let backend = self.runtime.name();
            let tiles = match Packing::of(weight.format()) {
                Some(packing) if argument == Argument::Tiles(id) => Some(pack(weight, packing, backend)?),
                _ => None,
            };
            let lent = if tiles.is_none() { self.runtime.import(weight.bytes()) } else { None };
            let buffer = match lent {
                Some(buffer) => buffer,
                None => {
                    let bytes = tiles.as_deref().unwrap_or(weight.bytes());
                    let buffer = self.runtime.allocate(weight.name(), bytes.len())?;
                    self.runtime.upload(&buffer, 0, bytes)?;
                    buffer
                }
            };
            self.device_weights.insert(argument, buffer);
        }
        Ok(())
    }

    /// Puts a run's inputs on the device.
    fn upload_inputs(&mut self, id: LoweredId, inputs: &StepInputs, asked: Asked<'_>) -> Result<()> {
        let lowered = &mut self.lowered[id.0 as usize];
        lowered.order.set(inputs);
        lowered.batches = lowered.layout.pack(inputs, &lowered.order, asked, &mut self.words);
        let (buffer, _) = self.inputs.as_ref().expect("lowering reserved it");
        self.runtime.upload(buffer, 0, bytemuck::cast_slice(&self.words))?;
        let (arena, _) = self.arena.as_ref().expect("lowering reserved it");
        for (_, buffer, mut values) in self.written.extract_if(.., |(lowered, ..)| *lowered == id) {
            let desc = lowered.step.desc(buffer)?;
            if desc.rows == Rows::Tokens {
                values = lowered.order.to_device(&values, desc.cols);
            }
            let place = lowered.plan.place(buffer).expect("it was checked when it was written");
            self.runtime.upload(arena, place.offset, bytemuck::cast_slice(&values))?;
        }
        Ok(())
    }

    /// Enqueues a run with inputs that have been checked.
    fn enqueue(&mut self, id: LoweredId, inputs: &StepInputs, asked: Asked<'_>) -> Result<()> {
        self.upload_inputs(id, inputs, asked)?;
        self.launch_all(id, inputs)?;
        self.lowered[id.0 as usize].rows = (inputs.tokens.len(), inputs.outputs.len());
        Ok(())
    }

    /// Enqueues a step's launches, or the graph of them.
    fn launch_all(&mut self, id: LoweredId, inputs: &StepInputs) -> Result<()> {
        let Self { runtime, device_weights, layers, lowered, arena, inputs: input_words, chosen, .. } = self;
        let lowered = &mut lowered[id.0 as usize];
        let when = lowered.when(inputs);
        let memory = StepMemory {
            seen: Seen::of(inputs),
            when,
            weights: device_weights,
            layers,
            arena: &arena.as_ref().expect("lowering reserved it").0,
            inputs: &input_words.as_ref().expect("lowering reserved it").0,
            chosen: &chosen.as_ref().expect("lowering reserved it").0,
        };
        if !lowered.has_one_role(inputs) {
            let rows = (inputs.tokens.len(), inputs.outputs.len(), lowered.order.n_generated);
            let embeddings = match &inputs.tokens {
                TokenInputs::Ids(_) => None,
                TokenInputs::Embeddings { values, .. } => Some(&values[..]),
            };
            return runtime.in_turn(&mut |runtime| lowered.launch(runtime, &memory, rows, embeddings));
        }
        if let Some(graph) = lowered.graphs.get(&when) {
            return runtime.in_turn(&mut |runtime| runtime.replay(graph));
        }
        let Bucket { tokens, outputs, .. } = lowered.bucket;
        let mut launches =
            |runtime: &mut R| lowered.launch(runtime, &memory, (tokens, outputs, tokens), None);
        let mut recorded = None;
        runtime.in_turn(&mut |runtime| {
            recorded = runtime.record(&mut launches)?;
            Ok(())
        })?;
        lowered.graphs.extend(recorded.map(|recorded| (when, recorded)));
        Ok(())
    }
}

impl<R: Runtime> Backend for Gpu<R> {
    fn name(&self) -> &'static str {
        self.runtime.name()
    }

    fn description(&self) -> String {
        self.runtime.description()
    }

    fn rounds_prompts(&self) -> bool {
        self.runtime.has_tiles()
    }

    fn rounds_prompts_with(&self, format: Format) -> bool {
        self.rounds_prompts() || simd::rounds_prompts_with(self.runtime.name(), format)
    }

    fn rounds_scales(&self) -> bool {
        self.runtime.has_tiles()
    }

    fn prompt_tile(&self) -> usize {
        // Matrix instructions wait for memory until there are enough tiles for the whole device:
        // 256 rows for 132 processors (docs/performance.md, "A long prompt beside replies").
        if self.runtime.has_tiles() { (2 * self.runtime.units() as usize / 64 * 64).max(64) } else { 8 }
    }

    fn memory(&self) -> Option<Memory> {
        self.runtime.memory()
    }

    fn weight_bytes(&self, weight: &Weight) -> u64 {
        let bytes = match Packing::of(weight.format()) {
            Some(packing) if self.runtime.has_tiles() => packing.bytes(weight.rows(), weight.cols()),
            _ => weight.bytes().len(),
        };
        bytes as u64
    }

    fn load(&mut self, weights: Vec<Weight>) -> Result<()> {
        for weight in &weights {
            if self.runtime.has_tiles() && Packing::of(weight.format()).is_some() {
                continue;
            }
            formats::kernel_name(weight.format()).map_err(|reason| Error::Absent {
                backend: self.runtime.name(),
                op: "load",
                what: format!("{} (weight `{}`)", weight.format(), weight.name()),
                reason,
            })?;
        }
        self.lowered.clear();
        self.device_weights.clear();
        let bytes = weights.iter().map(|weight| self.weight_bytes(weight)).sum();
        self.require_memory("the weights", bytes)?;
        self.weights = weights;
        self.multiplier = None;
        Ok(())
    }

    fn create_cache(&mut self, config: &CacheConfig) -> Result<()> {
        config.check()?;
        self.lowered.clear();
        self.written.clear();
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
        Ok(self.lower_all(step, &[bucket])?.pop().expect("each bucket has a lowered step"))
    }

    fn lower_all(&mut self, step: &Step, buckets: &[Bucket]) -> Result<Vec<LoweredId>> {
        step.check(&self.weights, &self.cache)?;
        let drafts = buckets.iter().map(|&bucket| self.draft(step, bucket)).collect::<Result<Vec<_>>>()?;
        // Compilers are slow, and can work side by side.
        let programs: Vec<_> = drafts.iter().flat_map(Draft::programs).collect();
        self.runtime.prepare(&programs);
        drafts.into_iter().map(|draft| self.finish(step, draft)).collect()
    }

    fn run(&mut self, id: LoweredId, inputs: &StepInputs) -> Result<()> {
        self.get(id)?.limits.check(inputs, &self.cache)?;
        self.enqueue(id, inputs, Asked::default())
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn submit(&mut self, id: LoweredId, submission: &Submission<'_>) -> Result<()> {
        self.submit_step(id, submission)
    }

    fn complete(&mut self) -> Result<Completed> {
        self.complete_step()
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
        let (desc_rows, cols) = (desc.rows, desc.cols);
        out.resize(rows * cols, 0.0);
        let (arena, _) = self.arena.as_ref().expect("lowering reserved it");
        self.runtime.download(arena, offset, bytemuck::cast_slice_mut(out))?;
        let lowered = &self.lowered[id.0 as usize];
        if desc_rows == Rows::Tokens && !lowered.order.is_given() {
            *out = lowered.order.to_host(out, cols);
        }
        Ok(())
    }

    fn write(&mut self, id: LoweredId, buffer: BufferId, values: &[f32]) -> Result<()> {
        let lowered = self.get(id)?;
        let desc = lowered.step.desc(buffer)?;
        lowered.plan.require_input(buffer, desc, values.len())?;
        // The order of rows is known when the step runs.
        self.written.push((id, buffer, values.to_vec()));
        Ok(())
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
