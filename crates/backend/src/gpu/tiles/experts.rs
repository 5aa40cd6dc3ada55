//! Mixture of experts on CUDA: rows are routed, gathered by expert and multiplied, and what a row's experts
//! make is added up best first.
//!
//! `route.cu` says what slots, places and items are. Maps over tiles read an expert's weights once for each item
//! of it; other weights are read as they are in the file, once a slot. A row's bits do not depend on its place.

use gguf::Format;

use super::convert::Input;
use super::expert_maps::{ExpertMaps, Gathered};
use super::linear::{Map, Maps};
use super::packing::Packing;
use crate::gpu::args::{RouteArgs, RouterArgs, SumSlotsArgs, SwigluArgs};
use crate::gpu::formats::kernel_name;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::linear::Linear;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::{NORM_LINEAR, ROUTE, SWIGLU_LINEAR_ADD};
use crate::kernels::moe_add::MoeAdd;
use crate::kernels::rms_norm::From;
use crate::kernels::swiglu_linear_add::Activation;
use crate::{Result, Rows, WeightId};

/// Threads of a threadgroup that routes, a row a SIMD-group, and of others.
const ROUTE_THREADS: u32 = 128;
const THREADS: u32 = 256;
/// Rows of a threadgroup of the router, and rows of which each SIMD-group has one expert for the sake of more of them.
const ROUTER_ROWS: u32 = 8;
const FEW_ROWS: usize = 64;
const ALL: RowsOf = RowsOf::All(Rows::Tokens);

/// The op with its sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Experts<'a> {
    pub op: &'a MoeAdd,
    pub n_experts: u32,
    pub n_used: u32,
    pub n_embd: usize,
    pub n_ff: usize,
}

/// What all rows have: normalised ones, then of each slot its expert and share.
struct Routed {
    hidden: Argument,
    experts: Argument,
    shares: Argument,
}

impl<'a> Experts<'a> {
    pub fn new(op: &'a MoeAdd, lowering: &Lowering<'_>) -> Result<Self> {
        Ok(Self {
            op,
            n_experts: lowering.u32(op.n_experts)?,
            n_used: lowering.u32(op.n_used)?,
            n_embd: lowering.desc(op.x).cols,
            n_ff: lowering.weight(op.down).cols(),
        })
    }

    /// Adds the launches.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let (hidden, skip) = lowering.scratch(0, Rows::Tokens, self.n_embd)?;
        let (experts, skip) = lowering.scratch(skip, Rows::Tokens, self.op.n_used)?;
        let (shares, skip) = lowering.scratch(skip, Rows::Tokens, self.op.n_used)?;
        let routed = Routed { hidden, experts, shares };
        let mut all = Vec::new();
        let mut skip = skip;
        for &rows in RowsOf::roles(Rows::Tokens) {
            let (maps, taken) = ExpertMaps::new(*self, lowering, rows, experts, skip)?;
            all.push(maps);
            skip = taken;
        }
        self.route(lowering, &routed, all[0].of_single_row(lowering), skip)?;
        for maps in &all {
            self.gather(lowering, maps, experts)?;
        }
        let (made, skip) = lowering.scratch(skip, Rows::Tokens, self.op.n_used * self.n_embd)?;
        if self.has_gated(lowering) {
            // One role after the other: both may use the same scratch.
            all.iter().try_for_each(|maps| maps.launch_gated(lowering, hidden, made, skip))?;
        } else {
            self.launch_apart(lowering, &all, (hidden, made), skip)?;
        }
        self.sum(lowering, made, shares)
    }

    /// The norm, the router, and what it chooses; of a single row `gathered` too.
    fn route(
        &self,
        lowering: &mut Lowering<'_>,
        routed: &Routed,
        gathered: Option<Gathered>,
        skip: usize,
    ) -> Result<()> {
        let (logits, skip) = lowering.scratch(skip, Rows::Tokens, self.op.n_experts)?;
        // Rows are read four elements at a time.
        if lowering.weight(self.op.router).format() == Format::F32 && self.n_embd.is_multiple_of(4) {
            self.route_floats(lowering, routed.hidden, logits)?;
        } else {
            self.route_any(lowering, routed.hidden, logits, skip)?;
        }
        let args = RouteArgs { has_items: gathered.is_some().into(), ..self.route_args(ALL, 1) };
        let grid = Grid { x: 1, rows: ALL, rows_each: ROUTE_THREADS / 32, threads: ROUTE_THREADS };
        let Gathered { items, slots } =
            gathered.unwrap_or(Gathered { items: Argument::Inputs, slots: Argument::Inputs });
        let buffers = [logits, routed.experts, routed.shares, items, slots];
        lowering.launch(&ROUTE, "route_rows", grid, args, &buffers).early = true;
        Ok(())
    }

    /// Norm and router in one launch for a single row, in two for others.
    fn route_floats(&self, lowering: &mut Lowering<'_>, hidden: Argument, logits: Argument) -> Result<()> {
        let (op, n_tokens) = (self.op, lowering.rows(Rows::Tokens));
        let [x, router] = [lowering.buffer(op.x), Argument::Weight(op.router)];
        let cols = lowering.u32(self.n_embd)?;
        let (_, end_at) = Layout::span(ALL);
        let args = RouterArgs { end_at, cols, n_experts: self.n_experts, eps: op.norm.eps };
        let experts = |each: u32| self.n_experts.div_ceil(each * THREADS / 32);
        if n_tokens == 1 && 4 * cols <= lowering.device.shared_limit / 2 {
            let grid = Grid { x: experts(1), rows: ALL, rows_each: 1, threads: THREADS };
            let buffers = [x, Argument::Weight(op.norm.weight), router, hidden, logits];
            let launch = lowering.launch(&ROUTE, "router_one", grid, args, &buffers);
            launch.early = true;
            launch.shared = 4 * cols;
            return Ok(());
        }
        let input = Input { x, cols: self.n_embd, norm: Some(op.norm), gather: false };
        input.normalise(lowering, ALL, hidden)?;
        let (entry, each) = if n_tokens <= FEW_ROWS { ("router_few", 1) } else { ("router_many", 4) };
        let grid = Grid { x: experts(each), rows: ALL, rows_each: ROUTER_ROWS, threads: THREADS };
        lowering.launch(&ROUTE, entry, grid, args, &[hidden, router, logits]).early = true;
        Ok(())
    }

    /// The same with a router of any format.
    fn route_any(
        &self,
        lowering: &mut Lowering<'_>,
        hidden: Argument,
        logits: Argument,
        skip: usize,
    ) -> Result<()> {
        let op = self.op;
        let x = lowering.buffer(op.x);
        op.norm.launch(lowering, (Rows::Tokens, self.n_embd), From::SameRow, x, hidden)?;
        // As floats where there is a kernel for it: rounded rows would choose other experts.
        if kernel_name(lowering.weight(op.router).format()).is_ok() {
            let router = Linear::new(op.router, None, Rows::Tokens);
            return router.launch(lowering, &NORM_LINEAR, hidden, logits);
        }
        let input = Input { x: hidden, cols: self.n_embd, norm: None, gather: false };
        let maps = [Map { weight: op.router, bias: None, out: logits }];
        let (rows, scale, softcap, add) = (Rows::Tokens, 1.0, None, false);
        Maps { maps: &maps, rows, scale, softcap, add }.launch(lowering, &input, skip)
    }

    fn route_args(&self, rows: RowsOf, each: u32) -> RouteArgs {
        let (first_at, end_at) = Layout::span(rows);
        RouteArgs {
            first_at,
            end_at,
            n_experts: self.n_experts,
            n_used: self.n_used,
            renormalise: self.op.renormalise.into(),
            each,
            has_items: 0,
        }
    }

    /// Slots to places, where maps want them so and the router has not done it.
    fn gather(&self, lowering: &mut Lowering<'_>, maps: &ExpertMaps<'_>, experts: Argument) -> Result<()> {
        let Some(Gathered { items, slots }) = maps.gathered else { return Ok(()) };
        if maps.of_single_row(lowering).is_some() {
            return Ok(());
        }
        let grid = Grid { x: self.n_experts, rows: maps.rows, rows_each: u32::MAX, threads: THREADS };
        let args = self.route_args(maps.rows, maps.each());
        let launch = lowering.launch(&ROUTE, "gather_slots", grid, args, &[experts, items, slots]);
        launch.early = true;
        launch.shared = 4 * self.n_experts;
        Ok(())
    }

    /// Whether one launch does gate, up and activation, as the map down takes it.
    fn has_gated(&self, lowering: &Lowering<'_>) -> bool {
        let packing = |id: WeightId| -> Option<Packing> { self.packing(lowering, id) };
        packing(self.op.gate).is_some()
            && packing(self.op.gate) == packing(self.op.up)
            && packing(self.op.down).is_some()
    }

    /// Gate, up, activation and down one after the other.
    fn launch_apart(
        &self,
        lowering: &mut Lowering<'_>,
        all: &[ExpertMaps<'_>],
        (hidden, made): (Argument, Argument),
        skip: usize,
    ) -> Result<()> {
        let op = self.op;
        let n_hidden = op.n_used * self.n_ff;
        let (gate, skip) = lowering.scratch(skip, Rows::Tokens, n_hidden)?;
        let (up, skip) = lowering.scratch(skip, Rows::Tokens, n_hidden)?;
        for maps in all {
            maps.map(lowering, (op.gate, self.n_ff), (hidden, self.n_used), gate, skip)?;
            maps.map(lowering, (op.up, self.n_ff), (hidden, self.n_used), up, skip)?;
        }
        let args = SwigluArgs {
            n_rows_at: Layout::n_rows_at(Rows::Tokens),
            cols: lowering.u32(n_hidden)?,
            gelu_tanh: (op.activation == Activation::GeluTanh).into(),
        };
        let x = args.cols.div_ceil(THREADS);
        let grid = Grid { x, rows: ALL, rows_each: 1, threads: THREADS };
        lowering.launch(&SWIGLU_LINEAR_ADD, "swiglu", grid, args, &[gate, up, gate]);
        all.iter().try_for_each(|maps| maps.map(lowering, (op.down, self.n_embd), (gate, 1), made, skip))
    }

    fn sum(&self, lowering: &mut Lowering<'_>, made: Argument, shares: Argument) -> Result<()> {
        let args = SumSlotsArgs {
            n_rows_at: Layout::n_rows_at(Rows::Tokens),
            cols: lowering.u32(self.n_embd)?,
            n_used: self.n_used,
            scale: self.op.scale,
        };
        let grid = Grid { x: args.cols.div_ceil(THREADS), rows: ALL, rows_each: 1, threads: THREADS };
        let residual = lowering.buffer(self.op.residual);
        lowering.launch(&ROUTE, "sum_slots", grid, args, &[made, shares, residual]).early = true;
        Ok(())
    }
}
