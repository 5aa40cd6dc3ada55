//! Maps of the experts that rows of one role go to.

use super::convert::{Form, Input};
use super::experts::Experts;
use super::items::Items;
use super::kernel::{self, Kernel, MapShape};
use super::packing::{Packing, TILE_COLS, TILE_ROWS};
use super::prompts;
use crate::gpu::args::{ExpertArgs, GatedArgs, SlotMapArgs, TileShape};
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::lower::{Argument, Grid, Launch, Lowering};
use crate::gpu::source::{self, ACTIVATIONS, GENERATED_EXPERTS, MOE_ADD, PROMPT_EXPERTS};
use crate::kernels::swiglu_linear_add::Activation;
use crate::{Result, WeightId};

/// Threads of a threadgroup that reads weights as they are, and outputs of each of its SIMD-groups.
const SLOT_THREADS: u32 = 128;
const SLOT_OUTS: u32 = 4;
/// Threads of one that converts, and the columns that each does at a time.
const CONVERT_THREADS: usize = 256;
const CONVERT_COLS: usize = 4;
/// Rows of an item that it converts.
const CONVERT_ROWS: u32 = 8;
/// Rounds of threadgroups where there are many items, so that processors end about together.
const ROUNDS: u32 = 3;
const NO_MEMORY: &str = "a threadgroup's memory is too small for its rows; use the CPU backend";

/// Where slots have been gathered, as `route.cu` says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathered {
    pub items: Argument,
    pub slots: Argument,
}

/// What all maps of such rows have in common.
pub(super) struct ExpertMaps<'a> {
    experts: Experts<'a>,
    pub rows: RowsOf,
    items: Items,
    /// The expert of each slot.
    of_slots: Argument,
    /// `None` where no map is over tiles.
    pub gathered: Option<Gathered>,
}

/// A map of each expert: the weight, and its outputs.
type ExpertMap = (WeightId, usize);
/// Rows, and how many slots share one; 0 for rows that lie in places.
type Source = (Argument, u32);

impl<'a> ExpertMaps<'a> {
    /// Those of `rows`, with places in scratch behind `skip` bytes; what is taken then.
    pub fn new(
        experts: Experts<'a>,
        lowering: &mut Lowering<'_>,
        rows: RowsOf,
        of_slots: Argument,
        skip: usize,
    ) -> Result<(Self, usize)> {
        let op = experts.op;
        let has_tiles = [op.gate, op.up, op.down].iter().any(|&id| experts.packing(lowering, id).is_some());
        let items = Items { n_experts: experts.n_experts, n_used: experts.n_used, each: 1 };
        let mut maps = Self { experts, rows, items, of_slots, gathered: None };
        maps.items.each = maps.rows_each(lowering);
        if !has_tiles {
            return Ok((maps, skip));
        }
        let n_items = maps.items.most(rows.most(lowering.bucket));
        let (items, skip) = lowering.scratch_bytes(skip, Some(8 * (n_items + 1)))?;
        let (slots, skip) = lowering.scratch_bytes(skip, maps.places(lowering).checked_mul(4))?;
        maps.gathered = Some(Gathered { items, slots });
        Ok((maps, skip))
    }

    /// Where the router leaves the slots of the only row there may be.
    pub fn of_single_row(&self, lowering: &Lowering<'_>) -> Option<Gathered> {
        let is_single = self.rows == RowsOf::Generated && self.rows.most(lowering.bucket) == 1;
        self.gathered.filter(|_| is_single)
    }

    /// Slots an item, at most.
    pub fn each(&self) -> u32 {
        self.items.each
    }

    fn rows_each(&self, lowering: &Lowering<'_>) -> u32 {
        let most = self.rows.most(lowering.bucket);
        if self.rows == RowsOf::Prompts {
            let average = most.saturating_mul(self.experts.op.n_used) / self.experts.op.n_experts;
            return prompts::expert_rows(lowering.device.has_warpgroups, average);
        }
        let op = self.experts.op;
        let fits = |id: WeightId, maps: u32| {
            self.experts.packing(lowering, id).is_none_or(|packing| {
                let cols = lowering.weight(id).cols();
                self.generated(lowering, packing, (cols, maps), 8).is_some()
            })
        };
        if most > 1 && fits(op.gate, 2) && fits(op.up, 2) && fits(op.down, 1) { 8 } else { 1 }
    }

    /// Places for as many rows as the bucket allows.
    fn places(&self, lowering: &Lowering<'_>) -> usize {
        self.items.most(self.rows.most(lowering.bucket)) * self.items.each as usize
    }

    fn form(&self, lowering: &Lowering<'_>, packing: Packing) -> Form {
        Form::of(&lowering.device, packing, self.rows)
    }

    /// The kernel for generated rows, so many together; `None` where memory does not suffice.
    fn generated(
        &self,
        lowering: &Lowering<'_>,
        packing: Packing,
        (cols, maps): (usize, u32),
        each: u32,
    ) -> Option<Kernel> {
        let n_tiles = u32::try_from(cols.div_ceil(TILE_COLS)).ok()?;
        let shape = MapShape { packing, n_tiles, maps, bands: 1 };
        Kernel::experts(&lowering.device, self.form(lowering, packing), shape, each)
    }

    fn kernel(&self, lowering: &Lowering<'_>, packing: Packing, cols: usize, maps: u32) -> Result<Kernel> {
        if self.rows == RowsOf::Prompts {
            let bands = if maps == 1 { prompts::LINEAR_BANDS } else { prompts::GATED_BANDS };
            let has_warpgroups = lowering.device.has_warpgroups;
            return Ok(Kernel::of_prompts(packing, self.items.each, bands, has_warpgroups));
        }
        let kernel = self.generated(lowering, packing, (cols, maps), self.items.each);
        kernel.ok_or_else(|| lowering.absent("moe_add", format!("{cols} columns"), NO_MEMORY))
    }

    /// Threadgroups an item, for so many blocks of outputs.
    fn groups(&self, lowering: &Lowering<'_>, kernel: &Kernel, n_blocks: u32) -> u32 {
        if self.rows == RowsOf::Prompts {
            return n_blocks;
        }
        let most = u32::try_from(self.items.most(self.rows.most(lowering.bucket))).unwrap_or(u32::MAX);
        let at_once = lowering.device.units * kernel.side_by_side(&lowering.device);
        let wanted = if 8 * most <= at_once { at_once / most } else { ROUNDS * at_once / most };
        let each = n_blocks.div_ceil(wanted.max(1));
        n_blocks.div_ceil(each)
    }

    fn args(&self, lowering: &Lowering<'_>, cols: usize, outs: usize, divide: u32) -> Result<ExpertArgs> {
        let input = Input { x: Argument::Inputs, cols, norm: None, gather: false };
        let x_rows = lowering.u32(self.places(lowering))?;
        let shape = TileShape { x_rows, ..input.shape(lowering, self.rows)? };
        let gelu_tanh = (self.experts.op.activation == Activation::GeluTanh).into();
        let gated = GatedArgs { shape, cols: lowering.u32(outs)?, gelu_tanh, results: 0 };
        Ok(ExpertArgs { gated, divide, each: self.items.each })
    }

    fn gathered(&self) -> [Argument; 2] {
        let Gathered { items, slots } = self.gathered.expect("maps over tiles have them");
        [items, slots]
    }

    /// `made[slot] = W · x` by each slot's expert; `skip` bytes of scratch are in use.
    pub fn map(
        &self,
        lowering: &mut Lowering<'_>,
        map: ExpertMap,
        source: Source,
        made: Argument,
        skip: usize,
    ) -> Result<()> {
        let Some(packing) = self.experts.packing(lowering, map.0) else {
            return self.map_slots(lowering, map, source, made);
        };
        if self.items.each == 1 {
            return self.multiply(lowering, map, ("linear_1", source), made);
        }
        let cols = lowering.weight(map.0).cols();
        let (x, _) = self.convert(lowering, self.form(lowering, packing), cols, source, skip)?;
        let suffix = format!("linear_{}", self.items.each);
        self.multiply(lowering, map, (&suffix, (x, 0)), made)
    }

    /// Gate, up and activation in one launch, then down to `made`.
    pub fn launch_gated(
        &self,
        lowering: &mut Lowering<'_>,
        hidden: Argument,
        made: Argument,
        skip: usize,
    ) -> Result<()> {
        let Experts { op, n_embd, n_ff, n_used, .. } = self.experts;
        let each = self.items.each;
        let packing = |lowering: &Lowering<'_>, id| self.experts.packing(lowering, id).expect("it was asked");
        let (of_gate, of_down) = (packing(lowering, op.gate), packing(lowering, op.down));
        let (x, end) = match each {
            1 => (hidden, skip),
            _ => {
                let form = self.form(lowering, of_gate);
                self.convert(lowering, form, n_embd, (hidden, n_used), skip)?
            }
        };
        let next = self.form(lowering, of_down);
        let is_left = next == Form::Prompt || (next != Form::Split && n_ff.is_multiple_of(TILE_COLS));
        let results = is_left.then_some(next);
        let (out, end) = lowering.scratch_bytes(end, self.result_bytes(lowering, results))?;
        self.multiply_gated(lowering, of_gate, (x, n_used), (results, out))?;
        let down = (op.down, n_embd);
        match results {
            Some(_) if each == 1 => self.multiply(lowering, down, ("linear_1c", (out, 0)), made),
            Some(_) => self.multiply(lowering, down, (&format!("linear_{each}"), (out, 0)), made),
            None => self.map(lowering, down, (out, 0), made, end),
        }
    }

    /// Bytes of what gate and up leave in places.
    fn result_bytes(&self, lowering: &Lowering<'_>, results: Option<Form>) -> Option<usize> {
        let (places, n_ff) = (self.places(lowering), self.experts.n_ff);
        let n_tiles = n_ff.div_ceil(TILE_COLS);
        match results {
            None => places.checked_mul(n_ff)?.checked_mul(4),
            Some(form) if self.items.each == 1 => {
                places.checked_mul(n_tiles)?.checked_mul(kernel::row_bytes(form).0 as usize)
            }
            Some(form) => form.bytes(places, n_tiles),
        }
    }

    /// Rows to their places in `form`, behind `skip` bytes of scratch.
    fn convert(
        &self,
        lowering: &mut Lowering<'_>,
        form: Form,
        cols: usize,
        (x, divide): Source,
        skip: usize,
    ) -> Result<(Argument, usize)> {
        let bytes = form.bytes(self.places(lowering), cols.div_ceil(TILE_COLS));
        let (out, end) = lowering.scratch_bytes(skip, bytes)?;
        let wanted = (cols / CONVERT_COLS).next_multiple_of(32).max(32);
        let threads = wanted.min(CONVERT_THREADS);
        let grid = Grid {
            x: lowering.u32(wanted.div_ceil(threads))?,
            rows: self.rows,
            rows_each: 1,
            threads: lowering.u32(threads)?,
        };
        let args = self.args(lowering, cols, 0, divide)?;
        let [items, slots] = self.gathered();
        let entry = format!("item_{}", form.kernel());
        let launch = lowering.launch(&ACTIVATIONS, entry, grid, args, &[x, items, slots, out]);
        launch.early = true;
        launch.items = Some((self.items, self.items.each.div_ceil(CONVERT_ROWS)));
        Ok((out, end))
    }

    fn multiply_gated(
        &self,
        lowering: &mut Lowering<'_>,
        packing: Packing,
        (x, divide): Source,
        (results, out): (Option<Form>, Argument),
    ) -> Result<()> {
        let Experts { op, n_embd, n_ff, .. } = self.experts;
        let kernel = self.kernel(lowering, packing, n_embd, 2)?;
        let mut args = self.args(lowering, n_embd, n_ff, divide)?;
        args.gated.results = Form::as_results(results);
        let n_blocks = kernel.blocks(args.gated.cols);
        // Pairs of bands make up what is quantised together.
        let n_blocks = if results == Some(Form::Quantised) { n_blocks / 2 } else { n_blocks };
        let [items, slots] = self.gathered();
        let buffers = [items, slots, x, Argument::Tiles(op.gate), Argument::Tiles(op.up), out];
        let suffix = format!("gated_{}", self.items.each);
        self.launch(lowering, packing, &suffix, (kernel, n_blocks), args, &buffers);
        Ok(())
    }

    /// A map of rows in the form that the kernel called `suffix` takes.
    fn multiply(
        &self,
        lowering: &mut Lowering<'_>,
        (weight, outs): ExpertMap,
        (suffix, (x, divide)): (&str, Source),
        made: Argument,
    ) -> Result<()> {
        let packing = self.experts.packing(lowering, weight).expect("it was asked");
        let cols = lowering.weight(weight).cols();
        let kernel = self.kernel(lowering, packing, cols, 1)?;
        let args = self.args(lowering, cols, outs, divide)?;
        let [items, slots] = self.gathered();
        let buffers = [items, slots, x, Argument::Tiles(weight), made];
        let n_blocks = kernel.blocks(args.gated.cols);
        self.launch(lowering, packing, suffix, (kernel, n_blocks), args, &buffers);
        Ok(())
    }

    fn launch(
        &self,
        lowering: &mut Lowering<'_>,
        packing: Packing,
        suffix: &str,
        (kernel, n_blocks): (Kernel, u32),
        args: ExpertArgs,
        buffers: &[Argument],
    ) {
        let x = self.groups(lowering, &kernel, n_blocks);
        let grid = Grid { x, rows: self.rows, rows_each: 1, threads: kernel.threads };
        let is_prompt = self.rows == RowsOf::Prompts;
        let source = if is_prompt { &PROMPT_EXPERTS } else { &GENERATED_EXPERTS };
        let definitions = self.form(lowering, packing).definitions();
        let name = (packing.name(), &*format!("_{suffix}"));
        let launch: &mut Launch = lowering.launch_for(source, name, grid, args, buffers);
        launch.definitions += &(definitions.to_owned() + &source::rows_each(self.items.each));
        launch.early = true;
        launch.shared = kernel.shared;
        launch.items = Some((self.items, 1));
    }

    /// As [`map`](Self::map), of a weight as it is in the file.
    fn map_slots(
        &self,
        lowering: &mut Lowering<'_>,
        (weight, outs): ExpertMap,
        (x, divide): Source,
        made: Argument,
    ) -> Result<()> {
        let format = lowering.format_name("moe_add", lowering.weight(weight).format())?;
        let (first_at, end_at) = Layout::span(self.rows);
        let out_cols = lowering.u32(outs)?;
        let args = SlotMapArgs {
            first_at,
            end_at,
            cols: lowering.u32(lowering.weight(weight).cols())?,
            out_cols,
            n_used: self.experts.n_used,
            divide,
            groups: out_cols.div_ceil(SLOT_OUTS * SLOT_THREADS / 32),
        };
        let x_groups = args.groups.saturating_mul(args.n_used);
        let grid = Grid { x: x_groups, rows: self.rows, rows_each: 1, threads: SLOT_THREADS };
        let buffers = [self.of_slots, Argument::Weight(weight), x, made];
        lowering.launch_for(&MOE_ADD, (format, ""), grid, args, &buffers);
        Ok(())
    }
}

impl Experts<'_> {
    /// The packing of experts' weights where they are read in tiles, of which each expert has whole bands.
    pub(super) fn packing(&self, lowering: &Lowering<'_>, id: WeightId) -> Option<Packing> {
        let weight = lowering.weight(id);
        let outs = weight.rows() / self.op.n_experts;
        // Activations are read four at a time.
        let fits = outs.is_multiple_of(TILE_ROWS) && weight.cols().is_multiple_of(4);
        Packing::of(weight.format()).filter(|_| fits && lowering.device.has_tiles)
    }
}
