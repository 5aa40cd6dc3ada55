//! A step as a list of kernel launches whose arguments never change: what
//! differs from run to run lies in the array of inputs.

use std::sync::Arc;

use bytemuck::Pod;
use gguf::Format;

use super::formats::kernel_name;
use super::inputs::{Layout, RowsOf};
use super::product::Product;
use super::runtime::{Activations, Multiplier};
use super::simd::qkv::Qkv;
use super::source::{self, Source};
use super::tiles::attended::Attended;
use super::tiles::gated::Gated;
use super::tiles::items::Items;
use super::tiles::normalised::{self, Left};
use super::tiles::qkv::TurnedHeads;
use super::tiles::step::{self, WholeStep};
use crate::plan::ALIGNMENT;
use crate::{Bucket, BufferDesc, BufferId, CacheConfig, CacheLayerId, Error, GroupConfig, Op, Plan, Result};
use crate::{CacheLayerConfig, Rows, Step, Weight, WeightId};

/// A buffer of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Argument {
    /// The array of inputs.
    Inputs,
    /// A weight as the file has it.
    Weight(WeightId),
    /// A weight in tiles.
    Tiles(WeightId),
    /// Part of the arena.
    Arena(Part),
    /// Tables made when the step was lowered, and what launches keep there ([`Lowering::kept`]), from this byte on.
    Tables(usize),
    /// The launch's batch of generated rows, of the group's.
    Batch(usize),
    /// The tokens chosen last, one an output, and behind them pairs of a token and its logit.
    Chosen,
    /// A cache layer's keys.
    Keys(CacheLayerId),
    /// A cache layer's values.
    Values(CacheLayerId),
}

/// Bytes of the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub offset: usize,
    pub bytes: usize,
    /// The buffer of the step whose rows they are; scratch has none.
    pub rows_of: Option<BufferId>,
}

/// How many threadgroups a launch has: `x`, by one for every `rows_each` rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub x: u32,
    pub rows: RowsOf,
    pub rows_each: u32,
    /// Threads a threadgroup.
    pub threads: u32,
}

/// Which steps of a bucket a launch is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum When {
    /// All.
    Always,
    /// Those of a single generated row with a short context, [`step::SHORT`].
    Short,
    /// Those of one with a longer context.
    Long,
    /// All others.
    Otherwise,
}

impl When {
    /// Of those for which a bucket may have launches of their own, with the longest contexts.
    pub const APART: [(Self, usize); 2] = [(Self::Short, step::SHORT), (Self::Long, step::LONG)];
}

/// One kernel launch.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub source: &'static Source,
    /// What it is compiled with.
    pub definitions: String,
    pub entry: String,
    pub grid: Grid,
    pub args: Vec<u32>,
    pub buffers: Vec<Argument>,
    /// Those of the buffers that it writes; where it does not say, it may write all but weights.
    pub written: Option<Vec<Argument>>,
    /// Bytes of threadgroup memory beside what the kernel declares.
    pub shared: u32,
    /// Whether the kernel waits itself for the launches before it.
    pub early: bool,
    /// Whether its buffers are one argument, a structure of their addresses.
    pub packed: bool,
    /// The cache group whose batches of generated rows it is for, one at a time.
    pub batches: Option<usize>,
    /// The items that it is for instead of rows, with so many threadgroups in a column for each.
    pub items: Option<(Items, u32)>,
    /// Which of the bucket's steps it is part of.
    pub when: When,
    /// Whether it stands for an embedding, which is copied instead when the inputs bring their own.
    pub embeds: bool,
    /// What is multiplied behind the kernel.
    pub product: Option<Product>,
    /// The op that it is for, or the first of them.
    pub op: usize,
}

impl Launch {
    /// Says what it writes, and that it only reads everything else.
    pub fn writing(&mut self, written: &[Argument]) -> &mut Self {
        self.written = Some(written.to_vec());
        self
    }

    /// All that it reads and writes.
    pub fn arguments(&self) -> impl Iterator<Item = Argument> {
        let of_product = self.product.iter().flat_map(Product::arguments);
        self.buffers.iter().copied().chain(of_product)
    }

    /// Whether it may write `argument`, one of these.
    pub fn writes(&self, argument: Argument) -> bool {
        match (&self.written, argument) {
            (_, Argument::Weight(_) | Argument::Tiles(_) | Argument::Tables(_)) => false,
            (Some(written), _) => written.contains(&argument),
            (None, _) => true,
        }
    }
}

/// What lowering asks of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device {
    /// The backend's name.
    pub name: &'static str,
    /// Whether kernels over tiles are to be used.
    pub has_tiles: bool,
    /// What multiplies the rows of prompts.
    pub multiplier: Multiplier,
    /// As [`Runtime::activations`](super::Runtime::activations).
    pub activations: Activations,
    /// As [`Runtime::has_warpgroups`](super::Runtime::has_warpgroups).
    pub has_warpgroups: bool,
    /// As [`Runtime::units`](super::Runtime::units).
    pub units: u32,
    /// As [`Runtime::bandwidth`](super::Runtime::bandwidth).
    pub bandwidth: Option<u64>,
    /// As [`Runtime::shared_limit`](super::Runtime::shared_limit).
    pub shared_limit: u32,
}

impl Device {
    /// What a runtime says, and kernels that multiply the rows of prompts.
    pub fn of(runtime: &impl super::Runtime) -> Self {
        Self {
            name: runtime.name(),
            has_tiles: runtime.has_tiles(),
            multiplier: Multiplier::default(),
            activations: runtime.activations(),
            has_warpgroups: runtime.has_warpgroups(),
            units: runtime.units(),
            bandwidth: runtime.bandwidth(),
            shared_limit: runtime.shared_limit(),
        }
    }
}

/// What the ops of a step are lowered into.
pub(crate) struct Lowering<'a> {
    pub device: Device,
    pub bucket: Bucket,
    pub layout: &'a Layout,
    step: &'a Step,
    weights: &'a [Weight],
    cache: &'a CacheConfig,
    plan: &'a Plan,
    /// Bytes before scratch for what an op leaves to the next.
    left_bytes: usize,
    scratch_bytes: usize,
    known_tables: Vec<(Arc<[f32]>, usize)>,
    /// Rows that an op has left to the next.
    pub left: Option<Left>,
    /// Whether ops are lowered one by one though there is a launch for all of them.
    pub is_op_by_op: bool,
    /// The op that is being lowered.
    op: usize,
    /// Bytes of tables.
    pub tables: Vec<f32>,
    pub launches: Vec<Launch>,
}

impl<'a> Lowering<'a> {
    /// Lowers a step that has passed [`Step::check`].
    pub fn new(
        device: Device,
        step: &'a Step,
        bucket: Bucket,
        (weights, cache): (&'a [Weight], &'a CacheConfig),
        (layout, plan): (&'a Layout, &'a Plan),
    ) -> Result<Self> {
        let mut lowering = Self {
            device,
            bucket,
            layout,
            step,
            weights,
            cache,
            plan,
            left_bytes: 0,
            scratch_bytes: 0,
            known_tables: Vec::new(),
            left: None,
            is_op_by_op: false,
            op: 0,
            tables: Vec::new(),
            launches: Vec::new(),
        };
        lowering.left_bytes = normalised::bytes(&lowering)?;
        lowering.ops(0, step.ops())?;
        Ok(lowering)
    }

    /// Lowers ops of the step, of which the first is its `first`th.
    fn ops(&mut self, first: usize, ops: &[Op]) -> Result<()> {
        let mut left = ops;
        while let [op, rest @ ..] = left {
            self.op = first + ops.len() - left.len();
            left = if let Some(layers) = WholeStep::find(self, left) {
                layers.lower(self)?;
                let (done, later) = left.split_at(layers.n_ops());
                self.op_by_op(self.op, done)?;
                later
            } else if let Some(rest) = self.fused(op, rest)? {
                rest
            } else {
                self.op(op)?;
                rest
            };
        }
        Ok(())
    }

    /// Lowers ops for the steps for which no launch does all of them.
    fn op_by_op(&mut self, first: usize, ops: &[Op]) -> Result<()> {
        let n_launches = self.launches.len();
        self.is_op_by_op = true;
        self.ops(first, ops)?;
        self.is_op_by_op = false;
        self.launches[n_launches..].iter_mut().for_each(|launch| launch.when = When::Otherwise);
        Ok(())
    }

    /// Bytes that nobody else reads or writes, zero at first: whoever decides about barriers need not know of them.
    pub fn kept(&mut self, bytes: usize) -> Argument {
        let at = self.tables.len() * 4;
        self.tables.resize((at + bytes).next_multiple_of(ALIGNMENT) / 4, 0.0);
        Argument::Tables(at)
    }

    /// Lowers an op together with what follows it, where there is a kernel for both;
    /// the ops that are left then.
    fn fused<'o>(&mut self, op: &Op, rest: &'o [Op]) -> Result<Option<&'o [Op]>> {
        match (op, rest) {
            (Op::NormLinear(maps), [Op::SwigluLinearAdd(next), later @ ..]) => {
                let Some(gated) = Gated::find(self, maps, next, later) else { return Ok(None) };
                gated.lower(self)?;
                Ok(Some(later))
            }
            (Op::NormLinear(maps), [Op::RopeStore(next), later @ ..]) => {
                if let Some(qkv) = Qkv::find(self, maps, next) {
                    qkv.lower(self)?;
                } else if let Some(heads) = TurnedHeads::find(self, maps, next, later) {
                    heads.lower(self)?;
                } else {
                    return Ok(None);
                }
                Ok(Some(later))
            }
            (Op::PagedAttention(attention), [Op::LinearAdd(next), later @ ..]) => {
                let Some(attended) = Attended::find(self, attention, next, later) else { return Ok(None) };
                attended.lower(self)?;
                Ok(Some(later))
            }
            _ => Ok(None),
        }
    }

    fn op(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Embed(op) => op.lower(self),
            Op::RmsNorm(op) => op.lower(self),
            Op::NormLinear(op) => op.lower(self),
            Op::RopeStore(op) => op.lower(self),
            Op::PagedAttention(op) => op.lower(self),
            Op::LinearAdd(op) => op.lower(self),
            Op::SwigluLinearAdd(op) => op.lower(self),
            Op::MoeAdd(op) => op.lower(self),
            Op::Head(op) => op.lower(self),
        }
    }

    /// Bytes of arena: the step's buffers, and behind them what single ops need.
    pub fn arena_bytes(&self) -> usize {
        self.plan.bytes() + self.left_bytes + self.scratch_bytes
    }

    /// A written absence.
    pub fn absent(&self, op: &'static str, what: impl Into<String>, reason: &'static str) -> Error {
        Error::Absent { backend: self.device.name, op, what: what.into(), reason }
    }

    /// The part of a kernel's name that says which format it reads.
    pub fn format_name(&self, op: &'static str, format: Format) -> Result<&'static str> {
        kernel_name(format).map_err(|reason| self.absent(op, format.name(), reason))
    }

    /// A weight.
    pub fn weight(&self, id: WeightId) -> &'a Weight {
        &self.weights[id.0 as usize]
    }

    /// A buffer's description.
    pub fn desc(&self, id: BufferId) -> &'a BufferDesc {
        &self.step.buffers()[id.0 as usize]
    }

    /// A buffer's place.
    pub fn buffer(&self, id: BufferId) -> Argument {
        let place = self.plan.place(id).expect("an op that uses a buffer gives it a place");
        Argument::Arena(Part { offset: place.offset, bytes: place.bytes, rows_of: Some(id) })
    }

    /// `[rows, cols]` f32 that live until the next op. `skip` bytes of scratch
    /// are taken already; the second value is what to skip for the next one.
    pub fn scratch(&mut self, skip: usize, rows: Rows, cols: usize) -> Result<(Argument, usize)> {
        self.scratch_bytes(skip, self.rows(rows).checked_mul(cols).and_then(|n| n.checked_mul(4)))
    }

    /// As [`scratch`](Self::scratch), of any kind; `None` for more than can be counted.
    pub fn scratch_bytes(&mut self, skip: usize, bytes: Option<usize>) -> Result<(Argument, usize)> {
        let end = bytes.and_then(|n| n.checked_next_multiple_of(ALIGNMENT)?.checked_add(skip));
        let end =
            end.ok_or_else(|| Error::Step("an op's scratch takes more than can be addressed".into()))?;
        self.scratch_bytes = self.scratch_bytes.max(end);
        let offset = self.plan.bytes() + self.left_bytes + skip;
        Ok((Argument::Arena(Part { offset, bytes: end - skip, rows_of: None }), end))
    }

    /// Where an op leaves rows to the next, if there are ops that may.
    pub fn left_part(&self) -> Argument {
        Argument::Arena(Part { offset: self.plan.bytes(), bytes: self.left_bytes, rows_of: None })
    }

    /// The place of the op that is being lowered, and the step's ops.
    pub fn place(&self) -> (usize, &'a [Op]) {
        (self.op, self.step.ops())
    }

    /// A table of constants on the device; equal tables are one.
    pub fn table(&mut self, values: &Arc<[f32]>) -> Argument {
        let known = self.known_tables.iter().find(|(known, _)| Arc::ptr_eq(known, values) || known == values);
        if let Some(&(_, at)) = known {
            return Argument::Tables(at);
        }
        let at = self.tables.len() * 4;
        self.known_tables.push((values.clone(), at));
        self.tables.extend_from_slice(values);
        self.tables.resize(self.tables.len().next_multiple_of(ALIGNMENT / 4), 0.0);
        Argument::Tables(at)
    }

    /// How often the step attends.
    pub fn n_layers(&self) -> usize {
        self.step.ops().iter().filter(|op| matches!(op, Op::PagedAttention(_))).count()
    }

    /// A cache layer and its group.
    pub fn cache(&self, id: CacheLayerId) -> (&'a CacheLayerConfig, &'a GroupConfig) {
        let layer = &self.cache.layers[id.0 as usize];
        (layer, &self.cache.groups[layer.group])
    }

    /// The most rows the bucket allows.
    pub fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.bucket.tokens,
            Rows::Outputs => self.bucket.outputs,
        }
    }

    /// A size as kernels take it.
    pub fn u32(&self, n: usize) -> Result<u32> {
        u32::try_from(n).map_err(|_| Error::Step(format!("{n} elements are more than a kernel counts")))
    }

    /// Adds a launch of the kernel of `source` that reads weights of `format`,
    /// for which the source has several, told apart by `suffix`.
    pub fn launch_for(
        &mut self,
        source: &'static Source,
        (format, suffix): (&'static str, &str),
        grid: Grid,
        args: impl Pod,
        buffers: &[Argument],
    ) -> &mut Launch {
        let launch = self.launch(source, format!("{}_{format}{suffix}", source.name), grid, args, buffers);
        launch.definitions = source::weight_format(format);
        launch
    }

    /// Adds a launch; `buffers` follow the inputs.
    pub fn launch(
        &mut self,
        source: &'static Source,
        entry: impl Into<String>,
        grid: Grid,
        args: impl Pod,
        buffers: &[Argument],
    ) -> &mut Launch {
        self.launches.push(Launch {
            source,
            definitions: String::new(),
            entry: entry.into(),
            grid,
            args: bytemuck::cast_slice(std::slice::from_ref(&args)).to_vec(),
            buffers: [&[Argument::Inputs], buffers].concat(),
            written: None,
            shared: 0,
            early: false,
            packed: false,
            batches: None,
            items: None,
            when: When::Always,
            embeds: false,
            product: None,
            op: self.op,
        });
        self.launches.last_mut().expect("one was just added")
    }
}
