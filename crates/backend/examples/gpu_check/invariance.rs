//! Bits that must not depend on what a step holds beside a row.

use gguf::Format::{self, BF16, F16, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q6_K, Q8_0};
use quarrel_backend::cuda::Cuda;
use quarrel_backend::harness::{Case, CaseBuilder, Random, inputs};
use quarrel_backend::{Backend, Bucket, Error, KvFormat, Role, TokenInputs};

use crate::bench::NO_BOUND;
use crate::layers::{MISTRAL, PAGE_SIZE, SMOLLM2, Shape};
use crate::{Done, SEED, roles, text};

/// Generated rows of a step, each number with kernels or launches of its own.
const ROWS: [u32; 7] = [1, 8, 9, 16, 32, 64, 65];

/// Maps of many columns, of which eight rows fill most of shared memory, to an odd number of outputs.
const WIDE: Shape = Shape { name: "wide", n_ff: 8704, ..SMALL };

/// Rows whose squares come to the same lanes several times.
const TALL: Shape = Shape { name: "tall", n_embd: 5120, ..SMALL };

/// Maps of fewer tiles than the eight parts that columns are cut into.
const NARROW: Shape = Shape { name: "narrow", n_embd: 192, n_ff: 224, n_heads: 3, n_kv_heads: 1, ..SMALL };

/// Maps that are large enough for a launch of all layers of a single row.
const LARGE: Shape = Shape {
    name: "large",
    n_layers: 3,
    n_embd: 2560,
    n_ff: 5120,
    n_heads: 20,
    n_kv_heads: 5,
    head_dim: 128,
    ..SMALL
};

/// The same with what some models have beside it, and positions that share scales.
const EXTRAS: Shape = Shape { name: "extras", kv_format: KvFormat::Q8_0, has_extras: true, ..LARGE };

/// As large, but that not every processor has a part of each map.
const FEWER: Shape =
    Shape { name: "fewer", n_layers: 2, n_embd: 1536, n_ff: 4096, n_heads: 12, n_kv_heads: 2, ..LARGE };

/// An odd number of threadgroups shares a key/value head on 132 processors.
const ODD: Shape = Shape { name: "odd", n_heads: 16, n_kv_heads: 4, ..LARGE };

/// So few share one that each has several chains of splits.
const MANY: Shape = Shape { name: "many", n_kv_heads: 20, ..LARGE };

/// Each has two chains, as elements are small, but no room for both side by side.
const SMALLER: Shape = Shape { name: "smaller", kv_format: KvFormat::Q8_0, ..FEWER };

/// Rows go to two of six experts, of which each has more than eight rows of the larger steps.
const EXPERTS: Shape = Shape { name: "experts", experts: Some((6, 2)), ..SMALL };

const SMALL: Shape = Shape {
    name: "small",
    n_layers: 1,
    n_embd: 512,
    n_ff: 768,
    n_heads: 8,
    n_kv_heads: 2,
    head_dim: 64,
    n_vocab: 1001,
    kv_format: KvFormat::F16,
    experts: None,
    has_extras: false,
};

/// As in Q4_K_M: q, k, v, output, gate, up, down.
const MIXED: [Format; 7] = [Q4_K, Q4_K, Q6_K, Q4_K, Q4_K, Q4_K, Q6_K];

/// A sequence's bits do not depend on what runs beside it; of `shape`'s models alone, on how many rows a step has.
pub fn check(cuda: &mut Cuda, shape: Option<&str>) -> Done {
    if shape.is_some() {
        return rows(cuda, shape);
    }
    // Two places in the cache are dealt in each run, so that pages agree; one row beside, or many.
    let alone: &[&[(u32, u32)]] = &[&[(7, 7), (1, 1)], &[(1, 8), (1, 1)], &[(1, 9), (1, 1)]];
    let beside: &[&[(u32, u32)]] = &[&[(7, 7), (30, 30)], &[(1, 8), (9, 39)], &[(1, 9), (1, 40)]];
    same_bits(cuda, SMOLLM2, alone, beside)?;
    // With so many rows kernels have other shapes.
    let alone: &[&[(u32, u32)]] = &[&[(20, 20), (1, 1)], &[(3, 23), (1, 1)], &[(1, 24), (1, 1)]];
    let beside: &[&[(u32, u32)]] = &[&[(20, 20), (400, 400)], &[(3, 23), (100, 500)], &[(1, 24), (1, 501)]];
    same_bits(cuda, MISTRAL, alone, beside)?;
    same_bits(cuda, EXPERTS, alone, beside)?;
    for format in [Q4_0, BF16] {
        roles::check(cuda, LARGE, format)?;
    }
    roles::check(cuda, SMALL, Q4_K)?;
    batches(cuda)?;
    rows(cuda, None)
}

/// Of maps for 20 and 64 rows in bfloat16 that have threadgroups for 128 processors.
pub fn model_of_engines() -> Case {
    let shape = Shape { name: "engines", n_embd: 4096, n_ff: 4096, n_heads: 32, n_kv_heads: 8, ..LARGE };
    case(Model { shape, formats: [[Q4_0; 7]; 2], start: 0, window: None })
}

fn same_bits(cuda: &mut Cuda, shape: Shape, alone: &[&[(u32, u32)]], beside: &[&[(u32, u32)]]) -> Done {
    let run = |cuda: &mut Cuda, runs| shape.case(Format::Q4_0, runs).run_on(cuda, SEED).map_err(text);
    let (alone, beside) = (run(cuda, alone)?, run(cuda, beside)?);
    for ((name, alone), (_, beside)) in alone.iter().zip(&beside) {
        // The first sequence's last row is the first of the outputs.
        if alone[..shape.n_vocab] != beside[..shape.n_vocab] {
            return Err(format!("{}: {name} differ with what runs beside them", shape.name));
        }
    }
    println!("invariance: {}'s logits are the same bits alone and beside others", shape.name);
    Ok(())
}

/// A row's bits do not depend on how many generated rows a step has, though the splits of
/// many do not fit into scratch together.
fn batches(cuda: &mut Cuda) -> Done {
    let last = |cuda: &mut Cuda, runs: &[&[(u32, u32)]]| -> Result<Vec<f32>, String> {
        let mut case = SMOLLM2.case(Format::Q4_0, runs);
        for run in &mut case.runs {
            run.tokens = TokenInputs::Ids(run.positions.iter().map(|position| position * 7 % 13).collect());
        }
        for run in &mut case.runs[1..] {
            run.sequences[0].role = Role::Generated;
        }
        let logits = case.run_on(cuda, SEED).map_err(text)?;
        Ok(logits.into_iter().next_back().expect("every run has logits").1)
    };
    // 256 rows of 16 to 18 splits: more than 4096.
    let together = last(cuda, &[&[(2000, 2000)], &[(256, 2256)]])?;
    let apart = last(cuda, &[&[(2000, 2000)], &[(255, 2255)], &[(1, 2256)]])?;
    if together != apart {
        return Err("logits differ with the number of generated rows".to_owned());
    }
    println!("invariance: logits are the same bits with one generated row and with 256");
    Ok(())
}

/// What replies are made by.
#[derive(Clone, Copy)]
struct Model {
    shape: Shape,
    /// Of its layers in turn.
    formats: [[Format; 7]; 2],
    /// The position at which replies begin.
    start: u32,
    /// Positions that a row sees, if not all.
    window: Option<u32>,
}

/// A row's logits are the same bits however many generated rows its step has, in models of all shapes or of one.
fn rows(cuda: &mut Cuda, shape: Option<&str>) -> Done {
    // Weights in all ways that they are packed in, of so many columns that the rings' slots are filled several times.
    let wide = [Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q6_K, Q8_0, BF16].map(|format| (WIDE, [format; 7]));
    let small = [(TALL, [Q4_0; 7]), (NARROW, [Q8_0; 7]), (NARROW, [BF16; 7]), (SMALL, MIXED)];
    let small = wide.into_iter().chain(small);
    let experts = [[Q4_0; 7], MIXED, [BF16; 7], [F16; 7]].map(|formats| (EXPERTS, formats));
    let small = small.chain(experts);
    let small = small.map(|(shape, formats)| Model { shape, formats: [formats; 2], start: 0, window: None });
    // Several splits, and more than those that the map behind attention folds.
    let split = [(MIXED, 450), ([Q4_0; 7], 1000)];
    let split =
        split.map(|(formats, start)| Model { shape: SMALL, formats: [formats; 2], start, window: None });
    let small = small.chain(split);
    let large = [(LARGE, [Q4_0; 7]), (LARGE, [BF16; 7]), (EXTRAS, [Q8_0; 7]), (FEWER, [Q8_0; 7])];
    let large = large.map(|(shape, formats)| (shape, [formats; 2])).into_iter();
    let large = large.chain([(LARGE, [[Q4_K; 7], MIXED]), (LARGE, [MIXED, [Q4_K; 7]])]);
    // One split and several, the last with a single position; then several for each processor and a window.
    let starts = [(0, None), (450, Some(200)), (3900, Some(3700)), (9000, None)];
    let large = large.flat_map(|(shape, formats)| {
        starts.into_iter().map(move |(start, window)| Model { shape, formats, start, window })
    });
    // Behind 32,768 positions op by op again.
    let longest = Model { shape: LARGE, formats: [[Q4_0; 7]; 2], start: 32_700, window: None };
    // Fewer splits than chains, or few more, and several a chain.
    let chained = [ODD, MANY, SMALLER].into_iter().flat_map(|shape| {
        [1100, 9000].map(|start| Model { shape, formats: [[Q4_0; 7]; 2], start, window: None })
    });
    let large = large.chain([longest]).chain(chained);
    let models = small.chain(large).filter(|model| shape.is_none_or(|shape| shape == model.shape.name));
    let models: Vec<_> = models.collect();
    if let (Some(shape), []) = (shape, &models[..]) {
        return Err(format!("there is no shape `{shape}`"));
    }
    let failed: Vec<_> = models.into_iter().filter_map(|model| same_rows(cuda, model).err()).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

fn same_rows(cuda: &mut Cuda, model: Model) -> Done {
    let Model { shape, formats, start, window } = model;
    let case = case(model);
    let (name, format) = (shape.name, formats[0][6]);
    let mut expected: Option<Vec<f32>> = None;
    let mut differing = Vec::new();
    for n_rows in ROWS {
        let logits = in_steps_of(cuda, &case, start, n_rows).map_err(text)?;
        let expected = expected.get_or_insert_with(|| logits.clone());
        let differ = |(a, b): (&[f32], &[f32])| a.iter().zip(b).any(|(a, b)| a.to_bits() != b.to_bits());
        let (ours, theirs) = (logits.chunks_exact(shape.n_vocab), expected.chunks_exact(shape.n_vocab));
        let replies = ours.zip(theirs).filter(|&rows| differ(rows)).count();
        if replies > 0 {
            differing.push(format!("{replies} in steps of {n_rows}"));
        }
    }
    if !differing.is_empty() {
        let differing = differing.join(", ");
        return Err(format!(
            "{name} {format} from {start} on: replies differ from steps of 1 row: {differing}"
        ));
    }
    let seen = window.map_or(String::new(), |window| format!(" of which a row sees {window}"));
    println!("invariance: {name} {format} from {start} on{seen}: the same bits in steps of {ROWS:?} rows");
    Ok(())
}

/// Rows of the prompt, which fills the cache up to `start` and goes on so far.
const PROMPT: u32 = 4;

/// All layers of a model, each with values of its own.
fn case(Model { shape, formats, start, window }: Model) -> Case {
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, shape.name.into(), NO_BOUND);
    let layers: Vec<_> = (0..shape.n_layers)
        .map(|i| {
            let values = shape.values(case.random, formats[i % 2]);
            shape.layer(&mut case, &values)
        })
        .collect();
    let table = shape.table(&mut case, formats[0][6]);
    let logits = shape.model(&mut case, &layers, table);
    let end = start + PROMPT + ROWS[ROWS.len() - 1];
    let mut cache = shape.cache(shape.n_layers, end.div_ceil(PAGE_SIZE));
    cache.groups[0].window = window;
    case.build(cache, Vec::new(), vec![logits])
}

/// Logits of the last of [`ROWS`] generated rows of one sequence, so many a step, in a bucket of that size.
fn in_steps_of(cuda: &mut Cuda, case: &Case, start: u32, n_rows: u32) -> Result<Vec<f32>, Error> {
    let first = start + PROMPT;
    let end = first + ROWS[ROWS.len() - 1];
    cuda.load(case.weights.clone())?;
    cuda.create_cache(&case.cache)?;
    let run = |cuda: &mut Cuda, lowered, (n, context): (u32, u32), role| -> Result<Vec<f32>, Error> {
        let mut run = inputs(&case.cache, &[(n, context)]);
        run.tokens = TokenInputs::Ids(run.positions.iter().map(|position| position * 7 % 13).collect());
        run.sequences[0].role = role;
        run.outputs = match role {
            Role::Prompt => vec![n - 1],
            Role::Generated => (0..n).collect(),
        };
        cuda.run(lowered, &run)?;
        let mut logits = Vec::new();
        cuda.read(lowered, case.compare[0], &mut logits)?;
        Ok(logits)
    };
    let bucket = |tokens: u32, outputs: u32| Bucket {
        tokens: tokens as usize,
        sequences: 1,
        outputs: outputs as usize,
        max_pages: case.cache.groups[0].n_pages as usize,
    };
    let prompt = cuda.lower(&case.step, bucket(first, 1))?;
    run(cuda, prompt, (first, first), Role::Prompt)?;
    let lowered = cuda.lower(&case.step, bucket(n_rows, n_rows))?;
    let mut logits = Vec::new();
    for from in (first..end).step_by(n_rows as usize) {
        let n = n_rows.min(end - from);
        logits.extend(run(cuda, lowered, (n, from + n), Role::Generated)?);
    }
    Ok(logits)
}
