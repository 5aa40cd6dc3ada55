//! Layers of a step of a single generated row in one launch, where they are alike and large enough for every
//! processor to have a part of q, k and v and of gate and up.

use super::convert::Form;
use super::gated::{gated_definitions, reads_first};
use super::kernel::{self, TEAM_THREADS};
use super::packing::TILE_COLS;
use super::step_layer::{LAYER_OPS, Layer, n_blocks};
use super::step_memory::Memory;
use super::step_packings::{DOWN, GATED, OUTPUT, Packings, QKV};
use crate::gpu::args::{AttentionArgs, OtherArgs, StepArgs, TileShape};
use crate::gpu::inputs::RowsOf;
use crate::gpu::items::SPLIT;
use crate::gpu::lower::{Grid, Lowering, When};
use crate::gpu::source::{BF16_ACTIVATIONS, STEP};
use crate::kernels::paged_attention::Decoding;
use crate::kernels::rope_store;
use crate::{Op, Result, Rows};

/// What it is for.
pub(super) const ROWS: RowsOf = RowsOf::Generated;
/// Teams that multiply; SIMD-groups that fill rings (what one lane does for its ring the others of its SIMD-group wait for),
/// and one that writes.
pub(super) const TEAMS: u32 = 2;
const FEEDERS: u32 = 3;
const THREADS: u32 = TEAMS * TEAM_THREADS + 32 * (FEEDERS + 1);
/// Splits of a row that are folded as one, and the most of which a launch of all layers has room for.
pub(crate) const FEW_SPLITS: usize = 8;
pub(super) const MOST_SPLITS: usize = 256;
/// The longest contexts of [`When::Short`] and [`When::Long`] steps.
pub(crate) const SHORT: usize = FEW_SPLITS * SPLIT;
pub(crate) const LONG: usize = MOST_SPLITS * SPLIT;
/// Layers whose addresses fit into a kernel's 4 KiB of arguments, which every compiler allows.
const MOST_LAYERS: usize = 25;

/// Layers that become one launch for a generated row.
pub(crate) struct WholeStep<'a> {
    layers: Vec<Layer<'a>>,
    packings: Packings,
    args: StepArgs,
    decoding: Decoding,
    /// Of launches for short contexts and for long ones.
    memory: [Memory; 2],
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
        let mut packings = if is_one { Packings::of(lowering, &first)? } else { return None };
        let decoding = first.attention.decoding(lowering).ok()??;
        let args = first.args(lowering, &decoding).ok()?;
        if !first.is_regular(lowering, &args, &decoding) {
            return None;
        }
        let layers = ops.chunks_exact(LAYER_OPS).map_while(Layer::find);
        let layers = layers.take_while(|layer| layer.is_like(lowering, first, (&args, &decoding)));
        let mut with = |layer: &Layer<'_>| packings.with(lowering, layer).map(|both| packings = both);
        let layers: Vec<_> = layers.take_while(|layer| with(layer).is_some()).collect();
        let memory = |max_splits| Memory::of(lowering, packings, &StepArgs { max_splits, ..args }, &decoding);
        let memory = [memory(FEW_SPLITS as u32)?, memory(MOST_SPLITS as u32)?];
        let later = &ops[layers.len() * LAYER_OPS..];
        // Few layers a launch were not measured.
        // No two such launches in a step: which contexts they are for may differ.
        let is_most = 2 * layers.len() > lowering.n_layers();
        let is_read = layers.iter().flat_map(Layer::unwritten).any(|id| reads_first(later, id));
        (is_most && !is_read).then_some(Self { layers, packings, args, decoding, memory })
    }

    /// How many ops they are.
    pub fn n_ops(&self) -> usize {
        self.layers.len() * LAYER_OPS
    }

    /// What blocks hand each other, as `Mail` of `step.h` has it: words of 64 bits.
    fn kept_bytes(&self, lowering: &Lowering<'_>, max_splits: u32) -> usize {
        let StepArgs { qkv, output, gated, down, attention, .. } = &self.args;
        let words = |shape: &TileShape, packing| {
            (shape.n_tiles * kernel::row_bytes(Form::of(&lowering.device, packing, ROWS)).0 / 4) as usize
        };
        let heads =
            (attention.n_heads * (attention.v_dim + 2)) as usize * attention.chains.min(max_splits) as usize;
        let floats = (qkv.shape.cols + qkv.cols0 + qkv.cols1 + qkv.cols2) as usize + heads;
        let singles = (gated.cols - 16 * self.args.paired * n_blocks(lowering, &self.args)) as usize;
        let floats = floats + singles;
        8 * (8
            + floats
            + words(&output.shape, self.packings.first[OUTPUT])
            + words(&down.shape, self.packings.first[DOWN])
            + 64)
    }

    /// Adds the launches for the generated row: those of short contexts have less code, which comes from memory
    /// in every step.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let n = self.layers.len().div_ceil(MOST_LAYERS);
        let (_, group) = lowering.cache(self.layers[0].store.cache);
        let context = lowering.bucket.max_pages * group.page_size as usize;
        let has_short = self.args.attention.sharing as usize >= FEW_SPLITS;
        let mut whens = vec![When::Short, When::Long];
        whens.retain(|&when| if when == When::Short { has_short } else { !has_short || context > SHORT });
        for when in whens {
            let mut launches = self.layers.chunks(self.layers.len().div_ceil(n));
            launches.try_for_each(|layers| self.launch(lowering, layers, when))?;
        }
        Ok(())
    }

    /// Whether who adds to the row rounds it for the next map.
    fn is_in_blocks(&self, lowering: &Lowering<'_>) -> bool {
        let rounds =
            |map: usize| Form::of(&lowering.device, self.packings.first[map], ROWS) == Form::Quantised;
        rounds(QKV) && rounds(GATED) && self.args.qkv.shape.cols.is_multiple_of(TILE_COLS as u32)
    }

    /// Which of the layers' weights are packed in the other way.
    fn others(&self, lowering: &Lowering<'_>, layers: &[Layer<'_>]) -> OtherArgs {
        let qkv = |i: usize| {
            self.packings.others(lowering, layers, QKV, move |layer| layer.maps.projections[i].weight)
        };
        OtherArgs {
            q: qkv(0),
            k: qkv(1),
            v: qkv(2),
            output: self.packings.others(lowering, layers, OUTPUT, |layer| layer.output.weight),
            down: self.packings.others(lowering, layers, DOWN, |layer| layer.down.weight),
        }
    }

    fn launch(&self, lowering: &mut Lowering<'_>, layers: &[Layer<'_>], when: When) -> Result<()> {
        let [.., inv_freq, _, _] = layers[0].store.buffers(lowering);
        let residual = lowering.buffer(layers[0].maps.x);
        let memory = self.memory[usize::from(when == When::Long)];
        let max_splits = memory.max_splits;
        let kept = lowering.kept(self.kept_bytes(lowering, max_splits));
        let mut buffers = vec![kept, residual, inv_freq];
        for layer in layers {
            buffers.extend(layer.buffers(lowering));
        }
        let grid = Grid { x: n_blocks(lowering, &self.args), rows: ROWS, rows_each: 1, threads: THREADS };
        let args = StepArgs { max_splits, other: self.others(lowering, layers), ..self.args };
        let (n_layers, several) = (layers.len(), when == When::Long);
        let mut definitions = memory.definitions();
        definitions += &format!("#define STEP_LAYERS {n_layers}\n#define STEP_FEEDERS {FEEDERS}\n");
        definitions += &format!("#define STEP_SEVERAL {several}\n");
        let AttentionArgs { sharing, chains, .. } = args.attention;
        definitions += &format!("#define STEP_SHARING {sharing}\n#define STEP_CHAINS {}\n", chains / sharing);
        definitions += &format!("#define STEP_IN_BLOCKS {}\n", self.is_in_blocks(lowering));
        let Packings { first, other } = self.packings;
        for (name, map) in [("QKV", QKV), ("OUTPUT", OUTPUT), ("GATED", GATED), ("DOWN", DOWN)] {
            let [first, other] = [first[map], other[map]].map(|packing| packing.name().to_uppercase());
            definitions += &format!("#define STEP_{name} {first}\n#define STEP_{name}_OTHER {other}\n");
        }
        definitions += &self.decoding.definitions;
        definitions += &rope_store::definitions(&self.args.rope);
        definitions += &gated_definitions(&self.args.gated);
        definitions += &kernel::row_definition(self.args.qkv.shape.cols as usize, TEAMS * TEAM_THREADS);
        if Form::of(&lowering.device, first[QKV], ROWS) == Form::Rounded {
            definitions += BF16_ACTIVATIONS;
        }
        let launch = lowering.launch(&STEP, "step", grid, args, &buffers);
        (launch.definitions, launch.shared) = (definitions, memory.shared);
        (launch.early, launch.packed) = (true, true);
        launch.when = when;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gpu::inputs::Layout;
    use crate::gpu::lower::{Device, Launch};
    use crate::gpu::paper::Paper;
    use crate::gpu::source::{
        DECODE_ATTENTION, FOLDED_LINEAR, GENERATED_QKV, PROMPT_ATTENTION, ROPE_STORE, ROUNDED_QKV, Source,
    };
    use crate::gpu::{Activations, Multiplier};
    use crate::harness::{Case, ModelShape, Random, inputs, matrix};
    use crate::{Backend, Bucket, GroupConfig, KvFormat, Plan, Role};

    /// The smallest of which sixteen processors have a part each.
    pub const SHAPE: ModelShape = ModelShape {
        n_layers: 2,
        n_embd: 704,
        n_ff: 256,
        n_vocab: 66,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 64,
    };

    const SHAPE_3: ModelShape = ModelShape { n_layers: 3, ..SHAPE };
    pub const GROUP: GroupConfig = GroupConfig { n_pages: 256, page_size: 16, window: None };

    /// The launches of a model for so many rows, on a device of so many processors.
    fn launches(shape: ModelShape, units: u32, tokens: usize) -> Vec<Launch> {
        let case = shape.case(&mut Random::new(1), gguf::Format::Q4_0, vec![GROUP]);
        lowered(&case, units, tokens, Activations::Int8)
    }

    pub fn lowered(case: &Case, units: u32, tokens: usize, activations: Activations) -> Vec<Launch> {
        let device = Device {
            name: "cuda",
            has_tiles: true,
            multiplier: Multiplier::default(),
            activations,
            has_warpgroups: true,
            bandwidth: None,
            units,
            shared_limit: 227 << 10,
        };
        let bucket = Bucket { tokens, sequences: tokens, outputs: tokens, max_pages: 128 };
        let layout = Layout::new(bucket, &case.cache).unwrap();
        let plan = Plan::new(&case.step, bucket).unwrap();
        let memory = (&case.weights[..], &case.cache);
        Lowering::new(device, &case.step, bucket, memory, (&layout, &plan)).unwrap().launches
    }

    pub fn count(launches: &[Launch], source: &'static Source) -> usize {
        launches.iter().filter(|launch| std::ptr::eq(launch.source, source)).count()
    }

    #[test]
    fn layers_of_a_single_row_are_one_launch() {
        let launches = launches(SHAPE, 24, 1);
        let of = |when| launches.iter().filter(|launch| launch.when == when).cloned().collect::<Vec<_>>();
        for when in [When::Short, When::Long] {
            assert_eq!((of(when).len(), count(&of(when), &STEP)), (1, 1));
            let several = format!("STEP_SEVERAL {}\n", when == When::Long);
            assert!(of(when)[0].definitions.contains(&several));
        }
        // Two for each layer, and as many for a prompt of one token.
        let otherwise = of(When::Otherwise);
        assert_eq!((count(&otherwise, &DECODE_ATTENTION), count(&otherwise, &PROMPT_ATTENTION)), (4, 2));
        assert!(of(When::Always).iter().all(|launch| launch.op == 0 || launch.op > 2 * LAYER_OPS));
        let step = launches.iter().find(|launch| std::ptr::eq(launch.source, &STEP)).unwrap();
        assert_eq!((step.grid.x, step.grid.rows, step.op), (16, ROWS, 1));
    }

    /// Where it is multiplied as integers, and in whole tiles.
    #[test]
    fn the_row_is_rounded_by_who_adds_to_it() {
        let narrow = ModelShape { n_embd: 672, ..SHAPE };
        for (shape, activations, expected) in [
            (SHAPE, Activations::Int8, true),
            (SHAPE, Activations::Bf16, false),
            (narrow, Activations::Int8, false),
        ] {
            let case = shape.case(&mut Random::new(1), gguf::Format::Q4_0, vec![GROUP]);
            let launches = lowered(&case, 24, 1, activations);
            let steps: Vec<_> = launches.iter().filter(|l| std::ptr::eq(l.source, &STEP)).collect();
            assert_eq!(steps.len(), 2, "{activations:?}");
            let definition = format!("STEP_IN_BLOCKS {expected}\n");
            assert!(steps.iter().all(|step| step.definitions.contains(&definition)), "{activations:?}");
        }
    }

    #[test]
    fn layers_may_be_packed_in_two_ways() {
        use gguf::Format::{Q4_0, Q4_1, Q8_0};
        // Of v and down, as in mixed formats; a third is not taken.
        let v = [Q8_0, Q4_0, Q4_1];
        let down = [Q8_0, Q4_0, Q4_0];
        let mut case = SHAPE_3.case(&mut Random::new(1), Q4_0, vec![GROUP]);
        let ops = case.step.ops().to_vec();
        let mut layer = 0;
        for op in &ops {
            let (id, format) = match op {
                Op::NormLinear(maps) if maps.projections.len() == 3 => (maps.projections[2].weight, v[layer]),
                Op::SwigluLinearAdd(op) => (op.weight, down[layer]),
                _ => continue,
            };
            layer += usize::from(matches!(op, Op::SwigluLinearAdd(_)));
            let weight = &mut case.weights[id.0 as usize];
            *weight = matrix(&mut Random::new(2), "w", format, weight.rows(), weight.cols());
        }
        let launches = lowered(&case, 8, 1, Activations::Int8);
        let step = launches.iter().find(|launch| std::ptr::eq(launch.source, &STEP)).unwrap();
        for name in ["LAYERS 2", "QKV P4", "QKV_OTHER P8", "DOWN P8", "DOWN_OTHER P4", "OUTPUT_OTHER P4"] {
            assert!(step.definitions.contains(&format!("#define STEP_{name}\n")), "{name}");
        }
        // Of q, k, v, output and down: a bit for each layer.
        assert_eq!(step.args[step.args.len() - 5..], [0, 0, 0b01, 0, 0b10]);
        // In bfloat16 v's parts would be added up in other groups than op by op; alike ones are not.
        let alike = SHAPE_3.case(&mut Random::new(1), Q4_0, vec![GROUP]);
        let n_steps = |case| count(&lowered(case, 8, 1, Activations::Bf16), &STEP);
        assert_eq!((n_steps(&case), n_steps(&alike)), (0, 2));
    }

    /// Of two layers: maps that store what they make, `rope_store` for generated rows and for prompts, and maps that
    /// fold attention's splits, for which nothing else is launched in steps with short contexts.
    #[test]
    fn rows_are_stored_and_folded_where_they_are_made() {
        use Activations::{Bf16, Int8};
        for (units, tokens, activations, expected) in [
            (25, 1, Int8, [2, 0, 2, 2]),
            (8, 2, Int8, [2, 0, 2, 0]),
            (8, 8, Bf16, [2, 0, 2, 0]),
            (8, 20, Int8, [0, 0, 4, 0]),
            (8, 20, Bf16, [0, 2, 2, 0]),
        ] {
            let case = SHAPE.case(&mut Random::new(1), gguf::Format::Q4_0, vec![GROUP]);
            let launches = lowered(&case, units, tokens, activations);
            let sources = [&GENERATED_QKV, &ROUNDED_QKV, &ROPE_STORE, &FOLDED_LINEAR];
            let counts = sources.map(|source| count(&launches, source));
            assert_eq!(counts, expected, "{tokens} rows");
            let merges = launches.iter().filter(|launch| launch.entry == "merge_converted");
            let when = if expected[3] > 0 { When::Otherwise } else { When::Always };
            assert!(merges.clone().all(|launch| launch.when == when) && merges.count() == 2, "{tokens} rows");
            let folds = launches.iter().filter(|launch| std::ptr::eq(launch.source, &FOLDED_LINEAR));
            assert!(folds.into_iter().all(|launch| launch.when == When::Short));
        }
    }

    #[test]
    fn other_steps_are_launched_op_by_op() {
        for (why, launches) in [
            ("two rows", launches(SHAPE, 8, 2)),
            ("a third of the processors without a part of a map", launches(SHAPE, 25, 1)),
        ] {
            assert_eq!((count(&launches, &STEP), count(&launches, &DECODE_ATTENTION)), (0, 4), "{why}");
        }
    }

    #[test]
    fn small_keys_and_values_leave_room_for_two_pairs_of_teams() {
        for (format, pairs) in [(KvFormat::F16, [1, 1]), (KvFormat::Q8_0, [1, 2]), (KvFormat::Fp8, [1, 2])] {
            let mut case = SHAPE.case(&mut Random::new(1), gguf::Format::Q4_0, vec![GROUP]);
            for layer in &mut case.cache.layers {
                (layer.k_format, layer.v_format) = (format, format);
            }
            let launches = lowered(&case, 8, 1, Activations::Int8);
            let steps: Vec<_> = launches.iter().filter(|launch| std::ptr::eq(launch.source, &STEP)).collect();
            assert_eq!(steps.len(), 2);
            for (step, (when, pairs)) in steps.iter().zip([When::Short, When::Long].into_iter().zip(pairs)) {
                let pairs = format!("#define STEP_TEAM_PAIRS {pairs}\n");
                assert!(step.when == when && step.definitions.contains(&pairs), "{format:?}, {when:?}");
            }
        }
    }

    #[test]
    fn arguments_of_a_launch_are_at_most_four_kilobytes() {
        for (n_layers, n) in [(MOST_LAYERS, 1), (MOST_LAYERS + 1, 2)] {
            let launches = launches(ModelShape { n_layers, ..SHAPE }, 8, 1);
            let steps: Vec<&Launch> =
                launches.iter().filter(|launch| std::ptr::eq(launch.source, &STEP)).collect();
            assert_eq!(steps.len(), 2 * n);
            for step in steps {
                assert!(4 * step.args.len() + 8 * step.buffers.len() <= 4096);
            }
        }
    }

    #[test]
    fn the_context_says_which_launches_run() {
        let group = GroupConfig { n_pages: 4096, ..GROUP };
        let case = SHAPE.case(&mut Random::new(1), gguf::Format::Q4_0, vec![group]);
        let (mut gpu, notes) = Paper::with_tiles("cuda", 8).loaded(&case);
        let bucket = Bucket { tokens: 1, sequences: 1, outputs: 1, max_pages: 4096 };
        let id = gpu.lower(&case.step, bucket).unwrap();
        let mut entries = |n_context, role| -> Vec<String> {
            let mut inputs = inputs(&case.cache, &[(1, n_context)]);
            inputs.sequences[0].role = role;
            gpu.run(id, &inputs).unwrap();
            notes.take_launches().into_iter().map(|launch| launch.entry).collect()
        };
        let short = entries(SHORT as u32, Role::Generated);
        let long = entries(SHORT as u32 + 1, Role::Generated);
        for entries in [&short, &long, &entries(LONG as u32, Role::Generated)] {
            assert_eq!(entries.iter().filter(|entry| *entry == "step").count(), 1);
            assert!(!entries.iter().any(|entry| entry.contains("attention") || entry.contains("rope")));
        }
        let longer = entries(LONG as u32 + 1, Role::Generated);
        assert!(!longer.contains(&"step".to_owned()));
        assert_eq!(longer.iter().filter(|entry| *entry == "decode_attention").count(), 2);
        let prompt = entries(1, Role::Prompt);
        assert!(!prompt.contains(&"step".to_owned()));
        assert_eq!(prompt.iter().filter(|entry| *entry == "prompt_attention").count(), 2);
        assert_eq!(entries(7, Role::Generated), short);
    }
}
