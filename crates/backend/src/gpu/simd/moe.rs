//! Mixture of experts: `moe_add.h` has the kernels.

use super::{MAX_MAPS, SimdArgs, args, launch_some, same_formats};
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::{self, MOE_ADD};
use crate::gpu::tiles::convert::Input;
use crate::gpu::tiles::linear::{Map, Maps};
use crate::kernels::moe_add::MoeAdd;
use crate::kernels::swiglu_linear_add::Activation;
use crate::{Result, Rows, WeightId};

/// Threads of a threadgroup that routes, of one that multiplies, and of one that adds.
const ROUTE_THREADS: u32 = 128;
const MAP_THREADS: u32 = 64;
const ADD_THREADS: u32 = 256;
/// Outputs that a SIMD-group makes.
const OUTS: u32 = 4;
const ROWS: RowsOf = RowsOf::All(Rows::Tokens);

/// As `moe_add.h` has it.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct MoeArgs {
    maps: SimdArgs,
    n_experts: u32,
    n_used: u32,
    renormalise: u32,
    /// Threadgroups of one expert.
    groups: u32,
}

/// Scratch: the chosen experts and their shares, `[rows, n_used]`, and what they make, `[rows, n_used, n_ff]`.
struct Slots {
    experts: Argument,
    shares: Argument,
    gate: Argument,
    up: Argument,
}

impl MoeAdd {
    /// Adds the launches.
    pub(crate) fn launch_simd(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let cols = lowering.desc(self.x).cols;
        let input = Input { x: lowering.buffer(self.x), cols, norm: Some(self.norm), gather: false };
        let n_ff = lowering.weight(self.down).cols();
        let (logits, skip) = lowering.scratch(0, Rows::Tokens, self.n_experts)?;
        let (experts, skip) = lowering.scratch(skip, Rows::Tokens, self.n_used)?;
        let (shares, skip) = lowering.scratch(skip, Rows::Tokens, self.n_used)?;
        let (gate, skip) = lowering.scratch(skip, Rows::Tokens, self.n_used * n_ff)?;
        let (up, _) = lowering.scratch(skip, Rows::Tokens, self.n_used * n_ff)?;
        let slots = Slots { experts, shares, gate, up };
        self.launch_route(lowering, &input, logits, &slots)?;
        let maps = [(self.gate, slots.gate), (self.up, slots.up)];
        let maps = maps.map(|(weight, out)| Map { weight, bias: None, out });
        for same in same_formats(lowering, &maps, |map| map.weight) {
            self.launch_maps(lowering, &input, &same, &slots)?;
        }
        self.launch_down(lowering, &slots)
    }

    /// The router, and what it chooses.
    fn launch_route(
        &self,
        lowering: &mut Lowering<'_>,
        input: &Input,
        logits: Argument,
        slots: &Slots,
    ) -> Result<()> {
        // Rows of prompts too: rounded activations would choose other experts.
        let maps = [Map { weight: self.router, bias: None, out: logits }];
        launch_some(lowering, input, &plain(&maps, 1.0), ROWS)?;
        let args = self.args(lowering, input, &plain(&maps, 1.0), 1)?;
        let grid = Grid { x: 1, rows: ROWS, rows_each: ROUTE_THREADS / 32, threads: ROUTE_THREADS };
        let definitions = source::weight_format(self.format(lowering, self.gate)?);
        let buffers = [logits, slots.experts, slots.shares];
        lowering.launch(&MOE_ADD, "moe_route", grid, args, &buffers).definitions = definitions;
        Ok(())
    }

    /// Gate and up, or one of them.
    fn launch_maps(
        &self,
        lowering: &mut Lowering<'_>,
        input: &Input,
        maps: &[Map],
        slots: &Slots,
    ) -> Result<()> {
        let args = self.args(lowering, input, &plain(maps, 1.0), MAP_THREADS / 32)?;
        let x = args.groups.saturating_mul(args.n_used);
        let grid = Grid { x, rows: ROWS, rows_each: 1, threads: MAP_THREADS };
        let [x, norm] = input.plain();
        let (first, last) = (maps[0], maps[maps.len() - 1]);
        let weights = [first, last].map(|map| Argument::Weight(map.weight));
        let buffers = [&[x, norm, slots.experts], &weights[..], &[first.out, last.out]].concat();
        let format = self.format(lowering, first.weight)?;
        lowering.launch_for(&MOE_ADD, (format, "_maps"), grid, args, &buffers);
        Ok(())
    }

    /// Down, and the sum.
    fn launch_down(&self, lowering: &mut Lowering<'_>, slots: &Slots) -> Result<()> {
        let residual = lowering.buffer(self.residual);
        let cols = lowering.weight(self.down).cols();
        let input = Input { x: slots.gate, cols, norm: None, gather: false };
        let maps = [Map { weight: self.down, bias: None, out: residual }];
        let maps = Maps { add: true, ..plain(&maps, self.scale) };
        let args = self.args(lowering, &input, &maps, ADD_THREADS / 32)?;
        let grid = Grid { x: args.groups, rows: ROWS, rows_each: 1, threads: ADD_THREADS };
        let format = self.format(lowering, self.down)?;
        let Slots { experts, shares, gate, up } = *slots;
        let buffers = [gate, up, experts, shares, Argument::Weight(self.down), residual];
        lowering.launch_for(&MOE_ADD, (format, "_down"), grid, args, &buffers);
        Ok(())
    }

    /// Arguments for threadgroups of so many SIMD-groups, whose maps are those of one expert.
    fn args(
        &self,
        lowering: &Lowering<'_>,
        input: &Input,
        maps: &Maps<'_>,
        simdgroups: u32,
    ) -> Result<MoeArgs> {
        let n_experts = lowering.u32(self.n_experts)?;
        let mut args = args(lowering, input, maps, ROWS, 1)?;
        args.gelu_tanh = (self.activation == Activation::GeluTanh).into();
        args.maps.cols0 /= n_experts;
        let mut groups = [0; MAX_MAPS];
        groups[..maps.maps.len()].fill(args.maps.cols0.div_ceil(simdgroups * OUTS));
        args.set_groups(groups);
        Ok(MoeArgs {
            maps: args,
            n_experts,
            n_used: lowering.u32(self.n_used)?,
            renormalise: self.renormalise.into(),
            groups: args.maps.n_blocks,
        })
    }

    fn format(&self, lowering: &Lowering<'_>, weight: WeightId) -> Result<&'static str> {
        lowering.format_name("moe_add", lowering.weight(weight).format())
    }
}

/// Maps whose results are multiplied by `scale` and nothing else.
fn plain(maps: &[Map], scale: f32) -> Maps<'_> {
    Maps { maps, rows: Rows::Tokens, scale, softcap: None, add: false }
}
