//! A layer of those that are one launch for a single generated row.

use bytemuck::bytes_of;

use super::convert::{Form, Input};
use super::kernel::TEAM_THREADS;
use super::linear::{self, MAX_MAPS, Map, Maps};
use super::packing::{Packing, TILE_COLS, TILE_ROWS};
use super::rounded;
use super::step::{ROWS, TEAMS};
use crate::gpu::args::{GatedArgs, OtherArgs, StepArgs, TileArgs, TileShape};
use crate::gpu::lower::{Argument, Lowering};
use crate::kernels::linear_add::LinearAdd;
use crate::kernels::norm_linear::NormLinear;
use crate::kernels::paged_attention::{Decoding, PagedAttention};
use crate::kernels::rope_store::RopeStore;
use crate::kernels::swiglu_linear_add::{Activation, SwigluLinearAdd};
use crate::{BufferId, Op, Result, Rows, WeightId};

/// Values of a head of which 32 lanes have four each when chains of splits are folded, eight at a time; of more than that the
/// number of chains would be another, and so the sums' order.
pub(super) const MOST_V_DIM: u32 = 128;
/// The longest row that is normalised: four times `LOADS` elements a thread.
const MOST_COLS: u32 = 16 * TEAMS * TEAM_THREADS;
/// Bands a block, a bit for each of a team's.
const MOST_BANDS: u32 = 32 * TEAMS;

/// The ops of a layer.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub maps: &'a NormLinear,
    pub store: &'a RopeStore,
    pub attention: &'a PagedAttention,
    pub output: &'a LinearAdd,
    pub gated: &'a NormLinear,
    pub down: &'a SwigluLinearAdd,
}

/// Ops of a layer.
pub(super) const LAYER_OPS: usize = 6;

impl<'a> Layer<'a> {
    pub fn find(ops: &'a [Op]) -> Option<Self> {
        match ops {
            [
                Op::NormLinear(maps),
                Op::RopeStore(store),
                Op::PagedAttention(attention),
                Op::LinearAdd(output),
                Op::NormLinear(gated),
                Op::SwigluLinearAdd(down),
                ..,
            ] => Some(Self { maps, store, attention, output, gated, down }),
            _ => None,
        }
    }

    /// Whether each op takes what the one before it made, and nothing else happens to it.
    pub fn is_chain(&self) -> bool {
        let outs = |maps: &NormLinear| maps.projections.iter().map(|p| p.out).collect::<Vec<BufferId>>();
        let residual = self.maps.x;
        outs(self.maps) == [self.store.q, self.store.k, self.store.v]
            && (self.attention.q, self.attention.cache) == (self.store.q, self.store.cache)
            && self.attention.n_heads == self.store.n_heads
            && self.output.x == self.attention.out
            && self.output.residual == residual
            && self.output.post_norm.is_none()
            && self.gated.x == residual
            && outs(self.gated) == [self.down.gate, self.down.up]
            && self.gated.projections.iter().all(|p| p.bias.is_none())
            && self.down.residual == residual
            && self.down.post_norm.is_none()
    }

    /// Buffers whose contents blocks hand each other instead.
    pub fn unwritten(&self) -> [BufferId; 6] {
        let (store, down) = (self.store, self.down);
        [store.q, store.k, store.v, self.attention.out, down.gate, down.up]
    }

    pub fn weights(&self) -> [Vec<WeightId>; 4] {
        let of = |maps: &NormLinear| maps.projections.iter().map(|p| p.weight).collect();
        [of(self.maps), vec![self.output.weight], of(self.gated), vec![self.down.weight]]
    }

    /// Whether most processors have a part of the layer, and results and rows are such as the kernel takes.
    pub fn is_regular(&self, lowering: &Lowering<'_>, args: &StepArgs, decoding: &Decoding) -> bool {
        let (units, n_blocks) = (lowering.device.units, n_blocks(lowering, args));
        let has_whole_bands = |id: &WeightId| lowering.weight(*id).rows().is_multiple_of(TILE_ROWS);
        !decoding.in_turn
            && args.gated.results != Form::as_results(None)
            && args.qkv.shape.cols <= MOST_COLS
            && args.attention.v_dim <= MOST_V_DIM
            && args.attention.v_dim.is_multiple_of(TILE_COLS as u32)
            // Where gate and up have fewer bands than q, k and v: attention does not know them.
            && args.attention.sharing * args.attention.n_kv_heads <= n_blocks
            // With fewer, launches op by op are faster (docs/cuda.md, "All layers in one launch").
            && 3 * n_blocks >= 2 * units
            && [&args.qkv, &args.output, &args.down].iter().all(|map| map.n_blocks <= MOST_BANDS * n_blocks)
            && self.weights().iter().flatten().all(has_whole_bands)
    }

    /// Whether the kernel does this layer as it does the `first`.
    pub fn is_like(
        &self,
        lowering: &Lowering<'_>,
        first: Self,
        (args, decoding): (&StepArgs, &Decoding),
    ) -> bool {
        let inv_freq = |layer: &Self| layer.store.rope.as_ref().map(|rope| rope.inv_freq.clone());
        let Ok(Some(own)) = self.attention.decoding(lowering) else { return false };
        self.is_chain()
            && self.maps.x == first.maps.x
            && inv_freq(self) == inv_freq(&first)
            && linear::can(lowering, self.weights().iter().flatten().copied())
            && own.definitions == decoding.definitions
            && self.args(lowering, &own).is_ok_and(|own| bytes_of(&own) == bytes_of(args))
    }

    fn add(&self, lowering: &Lowering<'_>, weight: WeightId, scale: f32) -> Result<TileArgs> {
        let cols = lowering.weight(weight).cols();
        let bias = if weight == self.output.weight { self.output.bias } else { self.down.bias };
        let map = Map { weight, bias, out: lowering.buffer(self.output.residual) };
        let maps = Maps { maps: &[map], rows: Rows::Tokens, scale, softcap: None, add: true };
        tile_args(lowering, &maps, &Input { x: map.out, cols, norm: None, gather: false })
    }

    pub fn args(&self, lowering: &Lowering<'_>, decoding: &Decoding) -> Result<StepArgs> {
        let down = Packing::of(lowering.weight(self.down.weight).format());
        let x = lowering.buffer(self.maps.x);
        let cols = lowering.desc(self.maps.x).cols;
        let maps: Vec<Map> = self.maps.projections.iter().map(|p| map(lowering, p)).collect();
        let maps = Maps { maps: &maps, rows: Rows::Tokens, scale: 1.0, softcap: None, add: false };
        let qkv = tile_args(lowering, &maps, &Input { x, cols, norm: self.maps.norm, gather: false })?;
        let gated = Input { x, cols, norm: self.gated.norm, gather: false };
        let n_ff = lowering.desc(self.down.gate).cols;
        let groups = rounded::part_groups(&lowering.device, 2, &[lowering.u32(n_ff)?]);
        let form = down.map(|down| Form::of(&lowering.device, down, ROWS));
        let form = form.filter(|_| n_ff.is_multiple_of(TILE_COLS));
        let mut args = StepArgs {
            qkv,
            output: self.add(lowering, self.output.weight, self.output.scale)?,
            gated: GatedArgs {
                shape: TileShape { groups, ..gated.shape(lowering, ROWS)? },
                cols: lowering.u32(n_ff)?,
                gelu_tanh: (self.down.activation == Activation::GeluTanh).into(),
                results: Form::as_results(form),
            },
            down: self.add(lowering, self.down.weight, self.down.scale)?,
            rope: self.store.args(lowering)?,
            attention: decoding.args,
            // Its launches say.
            max_splits: 0,
            paired: 0,
            other: OtherArgs::default(),
        };
        let n_blocks = n_blocks(lowering, &args);
        if form == Some(Form::Quantised) {
            args.paired = paired(args.gated.cols / TILE_ROWS as u32, n_blocks);
        }
        Ok(args)
    }

    /// As `Layer` of `step.h` has them.
    pub fn buffers(&self, lowering: &mut Lowering<'_>) -> Vec<Argument> {
        let weight = |id: Option<WeightId>| id.map_or(Argument::Inputs, Argument::Weight);
        let [_, _, _, q_norm, k_norm, _, keys, values] = self.store.buffers(lowering);
        let mut buffers = vec![weight(self.maps.norm.map(|norm| norm.weight))];
        for p in &self.maps.projections {
            buffers.extend([Argument::Tiles(p.weight), weight(p.bias)]);
        }
        buffers.extend([q_norm, k_norm, keys, values]);
        buffers.extend([Argument::Tiles(self.output.weight), weight(self.output.bias)]);
        buffers.push(weight(self.gated.norm.map(|norm| norm.weight)));
        buffers.extend(self.gated.projections.iter().map(|p| Argument::Tiles(p.weight)));
        buffers.extend([Argument::Tiles(self.down.weight), weight(self.down.bias)]);
        buffers
    }
}

/// Blocks of the launch: each has results among q, k and v, and of gate and up, so that nobody runs ahead of others by more
/// than that.
pub(super) fn n_blocks(lowering: &Lowering<'_>, args: &StepArgs) -> u32 {
    let gated = args.gated.cols / TILE_ROWS as u32;
    lowering.device.units.min(args.qkv.n_blocks).min(gated).max(1)
}

/// How many of so many bands each block does in pairs: the same number for all blocks, and all of them whole tiles
/// of the map behind.
fn paired(bands: u32, blocks: u32) -> u32 {
    let of_tile = (TILE_COLS / TILE_ROWS) as u32;
    (0..=bands / blocks).rev().find(|n| n % 2 == 0 && (n * blocks).is_multiple_of(of_tile)).unwrap_or(0)
}

fn map(lowering: &Lowering<'_>, p: &crate::kernels::norm_linear::Projection) -> Map {
    Map { weight: p.weight, bias: p.bias, out: lowering.buffer(p.out) }
}

fn tile_args(lowering: &Lowering<'_>, maps: &Maps<'_>, input: &Input) -> Result<TileArgs> {
    let outs = maps.maps.iter().map(|map| lowering.u32(lowering.weight(map.weight).rows()));
    let outs: Vec<u32> = outs.collect::<Result<_>>()?;
    let groups = rounded::part_groups(&lowering.device, 1, &outs);
    let shape = TileShape { groups, ..input.shape(lowering, ROWS)? };
    debug_assert!(outs.len() <= MAX_MAPS);
    Ok(maps.arguments(lowering, maps.maps, shape, |outs| outs.div_ceil(TILE_ROWS as u32))?.0)
}
