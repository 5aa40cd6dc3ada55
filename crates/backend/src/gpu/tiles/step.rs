//! Layers of a step of a single generated row in one launch, where they are alike and large enough for every
//! processor to have a part of each map.

use bytemuck::bytes_of;

use super::convert::{Form, Input};
use super::gated::reads_first;
use super::kernel::{self, TEAM_THREADS};
use super::linear::{self, MAX_MAPS, Map, Maps};
use super::packing::{Packing, TILE_COLS, TILE_ROWS};
use super::rounded;
use crate::gpu::args::{GatedArgs, StepArgs, TileArgs, TileShape};
use crate::gpu::inputs::RowsOf;
use crate::gpu::items::SPLIT;
use crate::gpu::lower::{Argument, Grid, Lowering, When};
use crate::gpu::source::{BF16_ACTIVATIONS, STEP};
use crate::kernels::linear_add::LinearAdd;
use crate::kernels::norm_linear::NormLinear;
use crate::kernels::paged_attention::{Decoding, PagedAttention};
use crate::kernels::rope_store::RopeStore;
use crate::kernels::swiglu_linear_add::{Activation, SwigluLinearAdd};
use crate::{BufferId, Op, Result, Rows, WeightId};

const ROWS: RowsOf = RowsOf::Generated;
/// Threads that multiply, and those that fill rings and write.
const TEAMS: u32 = 2;
const THREADS: u32 = TEAMS * TEAM_THREADS + 64;
/// What the kernel declares itself, and the driver takes.
const RESERVED: u32 = 1024 + 256;
/// Slots of a ring beyond which more do not help.
const MOST_SLOTS: u32 = 8;
/// Bytes of one SIMD-group's sums, two sets, and of turns.
const SUMS_BYTES: u32 = 2 * 64;
const TURNS_BYTES: u32 = 8 * 128;
/// Splits of a row that are folded as one.
const MOST_SPLITS: usize = 8;
/// Values of a head of which so many splits are loaded together.
const MOST_V_DIM: u32 = 128;
/// The most positions that a step's row may see.
pub(crate) const MOST_CONTEXT: usize = MOST_SPLITS * SPLIT;
/// The longest row that is normalised: four times `LOADS` elements a thread.
const MOST_COLS: u32 = 16 * TEAMS * TEAM_THREADS;
/// Layers whose addresses fit into a kernel's 4 KiB of arguments, which every compiler allows.
const MOST_LAYERS: usize = 25;

/// The ops of a layer.
#[derive(Clone, Copy)]
struct Layer<'a> {
    maps: &'a NormLinear,
    store: &'a RopeStore,
    attention: &'a PagedAttention,
    output: &'a LinearAdd,
    gated: &'a NormLinear,
    down: &'a SwigluLinearAdd,
}

/// Ops of a layer.
const LAYER_OPS: usize = 6;

impl<'a> Layer<'a> {
    fn find(ops: &'a [Op]) -> Option<Self> {
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
    fn is_chain(&self) -> bool {
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
    fn unwritten(&self) -> [BufferId; 6] {
        let (store, down) = (self.store, self.down);
        [store.q, store.k, store.v, self.attention.out, down.gate, down.up]
    }

    fn weights(&self) -> [Vec<WeightId>; 4] {
        let of = |maps: &NormLinear| maps.projections.iter().map(|p| p.weight).collect();
        [of(self.maps), vec![self.output.weight], of(self.gated), vec![self.down.weight]]
    }

    /// The packing of each map, where maps of the same row share one.
    fn packings(&self, lowering: &Lowering<'_>) -> Option<[Packing; 4]> {
        let weights = self.weights();
        if !linear::can(lowering, weights.iter().flatten().copied()) {
            return None;
        }
        let packing = |id: &WeightId| Packing::of(lowering.weight(*id).format());
        let one = |ids: &[WeightId]| {
            packing(&ids[0]).filter(|&first| ids.iter().all(|id| packing(id) == Some(first)))
        };
        let [a, b, c, d] = &weights;
        Some([one(a)?, one(b)?, one(c)?, one(d)?])
    }

    /// Whether each block has results in each map, so that nobody runs ahead of others by more than that, and
    /// whether results and rows are such as the kernel takes.
    fn has_enough(&self, lowering: &Lowering<'_>, args: &StepArgs, decoding: &Decoding) -> bool {
        let units = lowering.device.units;
        let (_, group) = lowering.cache(self.store.cache);
        let bands = args.gated.cols / TILE_ROWS as u32 / if args.gated.results == 1 { 2 } else { 1 };
        let has_whole_bands = |id: &WeightId| lowering.weight(*id).rows().is_multiple_of(TILE_ROWS);
        group.window.is_none_or(|window| window as usize >= MOST_CONTEXT)
            && !decoding.in_turn
            && args.gated.results != 0
            && args.qkv.shape.cols <= MOST_COLS
            // A head's splits are folded at once.
            && args.attention.v_dim <= MOST_V_DIM
            && args.attention.v_dim.is_multiple_of(TILE_COLS as u32)
            && args.attention.n_kv_heads.saturating_mul(MOST_SPLITS as u32) <= units
            && [args.qkv.n_blocks, args.output.n_blocks, bands, args.down.n_blocks]
                .iter()
                .all(|&n| n >= units)
            && self.weights().iter().flatten().all(has_whole_bands)
    }

    /// Whether the kernel does this layer as it does the `first`.
    fn is_like(
        &self,
        lowering: &Lowering<'_>,
        first: Self,
        (packings, args, decoding): ([Packing; 4], &StepArgs, &Decoding),
    ) -> bool {
        let inv_freq = |layer: &Self| layer.store.rope.as_ref().map(|rope| rope.inv_freq.clone());
        let Ok(Some(own)) = self.attention.decoding(lowering) else { return false };
        self.is_chain()
            && self.maps.x == first.maps.x
            && inv_freq(self) == inv_freq(&first)
            && self.packings(lowering) == Some(packings)
            && own.definitions == decoding.definitions
            && self.args(lowering, packings, &own).is_ok_and(|own| bytes_of(&own) == bytes_of(args))
    }

    fn add(&self, lowering: &Lowering<'_>, weight: WeightId, scale: f32) -> Result<TileArgs> {
        let cols = lowering.weight(weight).cols();
        let bias = if weight == self.output.weight { self.output.bias } else { self.down.bias };
        let map = Map { weight, bias, out: lowering.buffer(self.output.residual) };
        let maps = Maps { maps: &[map], rows: Rows::Tokens, scale, softcap: None, add: true };
        tile_args(lowering, &maps, &Input { x: map.out, cols, norm: None, gather: false })
    }

    fn args(&self, lowering: &Lowering<'_>, packings: [Packing; 4], decoding: &Decoding) -> Result<StepArgs> {
        let x = lowering.buffer(self.maps.x);
        let cols = lowering.desc(self.maps.x).cols;
        let maps: Vec<Map> = self.maps.projections.iter().map(|p| map(lowering, p)).collect();
        let maps = Maps { maps: &maps, rows: Rows::Tokens, scale: 1.0, softcap: None, add: false };
        let qkv = tile_args(lowering, &maps, &Input { x, cols, norm: self.maps.norm, gather: false })?;
        let gated = Input { x, cols, norm: self.gated.norm, gather: false };
        let n_ff = lowering.desc(self.down.gate).cols;
        let groups = rounded::part_groups(&lowering.device, 2, &[lowering.u32(n_ff)?]);
        Ok(StepArgs {
            qkv,
            output: self.add(lowering, self.output.weight, self.output.scale)?,
            gated: GatedArgs {
                shape: TileShape { groups, ..gated.shape(lowering, ROWS)? },
                cols: lowering.u32(n_ff)?,
                gelu_tanh: (self.down.activation == Activation::GeluTanh).into(),
                results: match Form::of(&lowering.device, packings[3], ROWS) {
                    Form::Quantised if n_ff.is_multiple_of(TILE_COLS) => 1,
                    Form::Rounded if n_ff.is_multiple_of(TILE_COLS) => 2,
                    _ => 0,
                },
            },
            down: self.add(lowering, self.down.weight, self.down.scale)?,
            rope: self.store.args(lowering)?,
            attention: decoding.args,
            max_splits: lowering.u32(MOST_SPLITS)?,
        })
    }

    /// As `Layer` of `step.h` has them.
    fn buffers(&self, lowering: &mut Lowering<'_>) -> Vec<Argument> {
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

/// Layers that become one launch for a generated row.
pub(crate) struct WholeStep<'a> {
    layers: Vec<Layer<'a>>,
    packings: [Packing; 4],
    args: StepArgs,
    decoding: Decoding,
    slots: u32,
    shared: u32,
}

impl<'a> WholeStep<'a> {
    /// The layers that `ops` begin with.
    pub fn find(lowering: &Lowering<'_>, ops: &'a [Op]) -> Option<Self> {
        let first = Layer::find(ops)?;
        let is_one = lowering.device.has_warpgroups
            && lowering.bucket.tokens == 1
            && !lowering.is_op_by_op
            && lowering.desc(first.maps.x).rows == Rows::Tokens
            && first.is_chain();
        let packings = if is_one { first.packings(lowering)? } else { return None };
        let decoding = first.attention.decoding(lowering).ok()??;
        let args = first.args(lowering, packings, &decoding).ok()?;
        let (slots, shared) = memory(lowering, packings, &args, &decoding)?;
        if !first.has_enough(lowering, &args, &decoding) {
            return None;
        }
        let layers = ops.chunks_exact(LAYER_OPS).map_while(Layer::find);
        let layers = layers.take_while(|layer| layer.is_like(lowering, first, (packings, &args, &decoding)));
        let layers: Vec<_> = layers.collect();
        let later = &ops[layers.len() * LAYER_OPS..];
        // Few layers a launch were not measured.
        let is_most = 2 * layers.len() >= lowering.n_layers();
        let is_read = layers.iter().flat_map(Layer::unwritten).any(|id| reads_first(later, id));
        (is_most && !is_read).then_some(Self { layers, packings, args, decoding, slots, shared })
    }

    /// How many ops they are.
    pub fn n_ops(&self) -> usize {
        self.layers.len() * LAYER_OPS
    }

    /// What blocks hand each other, as `Mail` of `step.h` has it: words of 64 bits.
    fn kept_bytes(&self, lowering: &Lowering<'_>) -> usize {
        let StepArgs { qkv, output, down, attention, .. } = &self.args;
        let words = |shape: &TileShape, packing| {
            (shape.n_tiles * kernel::row_bytes(Form::of(&lowering.device, packing, ROWS)).0 / 4) as usize
        };
        let heads = (attention.n_heads * (attention.v_dim + 2)) as usize * MOST_SPLITS;
        let floats = (qkv.shape.cols + qkv.cols0 + qkv.cols1 + qkv.cols2) as usize + heads;
        8 * (8 + floats + words(&output.shape, self.packings[1]) + words(&down.shape, self.packings[3]) + 64)
    }

    /// Adds the launches for the generated row.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let n = self.layers.len().div_ceil(MOST_LAYERS);
        let mut launches = self.layers.chunks(self.layers.len().div_ceil(n));
        launches.try_for_each(|layers| self.launch(lowering, layers))
    }

    fn launch(&self, lowering: &mut Lowering<'_>, layers: &[Layer<'_>]) -> Result<()> {
        let [.., inv_freq, _, _] = layers[0].store.buffers(lowering);
        let residual = lowering.buffer(layers[0].maps.x);
        let kept = lowering.kept(self.kept_bytes(lowering));
        let mut buffers = vec![kept, residual, inv_freq];
        for layer in layers {
            buffers.extend(layer.buffers(lowering));
        }
        let grid = Grid { x: lowering.device.units, rows: ROWS, rows_each: 1, threads: THREADS };
        let mut definitions =
            format!("#define STEP_LAYERS {}\n#define STEP_SLOTS {}\n", layers.len(), self.slots);
        for (name, packing) in ["QKV", "OUTPUT", "GATED", "DOWN"].iter().zip(self.packings) {
            definitions += &format!("#define STEP_{name} {}\n", packing.name().to_uppercase());
        }
        definitions += &self.decoding.definitions;
        if Form::of(&lowering.device, self.packings[0], ROWS) == Form::Rounded {
            definitions += BF16_ACTIVATIONS;
        }
        let launch = lowering.launch(&STEP, "step", grid, self.args, &buffers);
        (launch.definitions, launch.shared) = (definitions, self.shared);
        (launch.early, launch.together, launch.packed) = (true, true, true);
        launch.when = When::Short;
        Ok(())
    }
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

/// Slots of rings and bytes of threadgroup memory, as `step.h` lays it out.
fn memory(
    lowering: &Lowering<'_>,
    packings: [Packing; 4],
    args: &StepArgs,
    decoding: &Decoding,
) -> Option<(u32, u32)> {
    let device = &lowering.device;
    let slot = packings.iter().map(|&packing| kernel::slot_bytes(packing)).max()?;
    let tile = |packing| kernel::row_bytes(Form::of(device, packing, ROWS)).0;
    let [qkv, output, gated, down] = [
        args.qkv.shape.n_tiles * tile(packings[0]),
        args.output.shape.n_tiles * tile(packings[1]),
        args.gated.shape.n_tiles * tile(packings[2]),
        args.down.shape.n_tiles * tile(packings[3]),
    ];
    let attention = &args.attention;
    let floats = (attention.n_heads / attention.n_kv_heads + 1) * attention.k_dim + attention.v_dim;
    // A fold's splits and its result lie where keys and values do.
    let fold = 4 * MOST_SPLITS as u32 * (attention.v_dim + 2) + attention.v_dim / 64 * tile(packings[1]);
    if 4 * floats > qkv || fold > decoding.shared || args.rope.n_pairs > TURNS_BYTES / 8 {
        return None;
    }
    let rows = output.max(gated).max(down).max(qkv.next_multiple_of(128) + decoding.shared);
    let simdgroups = TEAMS * kernel::PARTS;
    let shared = |slots: u32| simdgroups * (slots * (slot + 16) + SUMS_BYTES) + TURNS_BYTES + rows;
    let slots = (2..=MOST_SLOTS).rev().find(|&slots| shared(slots) + RESERVED <= device.shared_limit)?;
    Some((slots, shared(slots)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Gpu;
    use crate::gpu::inputs::Layout;
    use crate::gpu::lower::{Device, Launch};
    use crate::gpu::paper::Paper;
    use crate::gpu::source::{DECODE_ATTENTION, PROMPT_ATTENTION, Source};
    use crate::harness::{ModelShape, Random, inputs};
    use crate::{Backend, Bucket, GroupConfig, Plan, Role};

    /// The smallest of whose maps eight processors have a part each.
    const SHAPE: ModelShape = ModelShape {
        n_layers: 2,
        n_embd: 704,
        n_ff: 256,
        n_vocab: 66,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 64,
    };

    /// The launches of a model for so many rows, which see all positions or a window of them.
    fn launches(shape: ModelShape, units: u32, tokens: usize, window: Option<u32>) -> Vec<Launch> {
        let group = GroupConfig { n_pages: 256, page_size: 16, window };
        let case = shape.case(&mut Random::new(1), gguf::Format::Q4_0, vec![group]);
        let device = Device {
            name: "cuda",
            has_tiles: true,
            multiplies: false,
            activations: crate::gpu::Activations::Int8,
            has_warpgroups: true,
            units,
            shared_limit: 227 << 10,
        };
        let bucket = Bucket { tokens, sequences: tokens, outputs: tokens, max_pages: 128 };
        let layout = Layout::new(bucket, &case.cache).unwrap();
        let plan = Plan::new(&case.step, bucket).unwrap();
        let memory = (&case.weights[..], &case.cache);
        Lowering::new(device, &case.step, bucket, memory, (&layout, &plan)).unwrap().launches
    }

    fn count(launches: &[Launch], source: &'static Source) -> usize {
        launches.iter().filter(|launch| std::ptr::eq(launch.source, source)).count()
    }

    #[test]
    fn layers_of_a_single_row_are_one_launch() {
        let launches = launches(SHAPE, 8, 1, None);
        let of = |when| launches.iter().filter(|launch| launch.when == when).cloned().collect::<Vec<_>>();
        assert_eq!((of(When::Short).len(), count(&of(When::Short), &STEP)), (1, 1));
        // Two for each layer, and as many for a prompt of one token.
        let otherwise = of(When::Otherwise);
        assert_eq!((count(&otherwise, &DECODE_ATTENTION), count(&otherwise, &PROMPT_ATTENTION)), (4, 2));
        assert!(of(When::Always).iter().all(|launch| launch.op == 0 || launch.op > 2 * LAYER_OPS));
        let step = launches.iter().find(|launch| std::ptr::eq(launch.source, &STEP)).unwrap();
        assert_eq!((step.grid.x, step.grid.rows, step.op), (8, ROWS, 1));
    }

    #[test]
    fn other_steps_are_launched_op_by_op() {
        for (why, launches) in [
            ("two rows", launches(SHAPE, 8, 2, None)),
            ("a short window", launches(SHAPE, 8, 1, Some(100))),
            ("processors without a part of a map", launches(SHAPE, 9, 1, None)),
        ] {
            assert_eq!((count(&launches, &STEP), count(&launches, &DECODE_ATTENTION)), (0, 4), "{why}");
        }
    }

    #[test]
    fn arguments_of_a_launch_are_at_most_four_kilobytes() {
        for (n_layers, n) in [(MOST_LAYERS, 1), (MOST_LAYERS + 1, 2)] {
            let launches = launches(ModelShape { n_layers, ..SHAPE }, 8, 1, None);
            let steps: Vec<&Launch> =
                launches.iter().filter(|launch| std::ptr::eq(launch.source, &STEP)).collect();
            assert_eq!(steps.len(), n);
            for step in steps {
                assert!(4 * step.args.len() + 8 * step.buffers.len() <= 4096);
            }
        }
    }

    #[test]
    fn the_context_says_which_launches_run() {
        let group = GroupConfig { n_pages: 128, page_size: 16, window: None };
        let case = SHAPE.case(&mut Random::new(1), gguf::Format::Q4_0, vec![group]);
        let paper = Paper::with_tiles("cuda", 8);
        let notes = paper.notes();
        let mut gpu = Gpu::new(paper);
        gpu.load(case.weights.clone()).unwrap();
        gpu.create_cache(&case.cache).unwrap();
        let bucket = Bucket { tokens: 1, sequences: 1, outputs: 1, max_pages: 128 };
        let id = gpu.lower(&case.step, bucket).unwrap();
        let mut entries = |n_context, role| -> Vec<String> {
            let mut inputs = inputs(&case.cache, &[(1, n_context)]);
            inputs.sequences[0].role = role;
            gpu.run(id, &inputs).unwrap();
            notes.take_launches().into_iter().map(|launch| launch.entry).collect()
        };
        let short = entries(MOST_CONTEXT as u32, Role::Generated);
        assert_eq!(short.iter().filter(|entry| *entry == "step").count(), 1);
        assert!(
            !short.iter().any(|entry| entry.contains("attention") || entry.contains("rope")),
            "{short:?}"
        );
        let long = entries(MOST_CONTEXT as u32 + 1, Role::Generated);
        assert!(!long.contains(&"step".to_owned()));
        assert_eq!(long.iter().filter(|entry| *entry == "decode_attention").count(), 2);
        let prompt = entries(1, Role::Prompt);
        assert!(!prompt.contains(&"step".to_owned()));
        assert_eq!(prompt.iter().filter(|entry| *entry == "prompt_attention").count(), 2);
        assert_eq!(entries(7, Role::Generated), short);
    }
}
