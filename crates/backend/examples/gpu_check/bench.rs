//! What decides decoding speed, bytes of weights a second, and whole steps.

use std::time::Instant;

use gguf::Format;
use quarrel_backend::bounds::Bound;
use quarrel_backend::cuda::Cuda;
use quarrel_backend::harness::{Case, CaseBuilder, Random, inputs, matrix};
use quarrel_backend::kernels::norm_linear::{NormLinear, Projection};
use quarrel_backend::{Backend, CacheConfig, Error, KvFormat};

use crate::choosing;
use crate::layers::{MISTRAL, PAGE_SIZE, QWEN, QWEN_SMALL, SMOLLM2, Shape};
use crate::{Done, SEED, text};

const MAPS: [(Format, u32); 6] = [
    (Format::Q4_0, 1),
    (Format::Q4_0, 8),
    (Format::Q4_0, 64),
    (Format::Q4_K, 1),
    (Format::Q8_0, 1),
    (Format::BF16, 1),
];

pub const NO_BOUND: Bound = Bound { max: 0.0, rms: 0.0 };

/// Single maps and whole steps, or one of them by name; of decoding and mixed steps those of
/// so many rows, of the first with weights of such a format, of such a context and with keys and values of such a format, of
/// prompts those of a format.
pub fn run(cuda: &mut Cuda, words: &[String]) -> Done {
    let word = |i: usize| words.get(i).map(String::as_str);
    let wanted = |name: &str| word(0).is_none_or(|only| only == name);
    let maps: &[(Format, u32)] = if wanted("matvec") { &MAPS } else { &[] };
    for &(format, rows) in maps {
        matvec(cuda, format, rows).map_err(text)?;
    }
    let is_wanted = |n: &usize| wanted("decode") && word(1).is_none_or(|rows| rows == n.to_string());
    let named = |name: &str| Format::ALL.iter().copied().find(|format| format.name() == name);
    let format = word(2).map_or(Some(Format::Q4_0), named).ok_or("there is no such format")?;
    let n_context = word(3).map_or(Ok(512), |n| n.parse().map_err(|_| format!("`{n}` is no context")))?;
    let kv_format = match word(4) {
        None => Some(KvFormat::F16),
        Some(name) => KvFormat::ALL.iter().copied().find(|format| format.name() == name),
    };
    let kv_format = kv_format.ok_or("there is no such format of keys and values")?;
    let shapes =
        [MISTRAL, QWEN, QWEN_SMALL, SMOLLM2].map(|shape| (Shape { kv_format, ..shape }, shape.takes(format)));
    for n_rows in [1, 8, 16, 32, 64].into_iter().filter(is_wanted) {
        for (shape, fits) in shapes {
            if !fits {
                println!("decode {} {format}: its rows are no whole blocks", shape.name);
                continue;
            }
            decode(cuda, (shape, format), (n_rows, n_context)).map_err(text)?;
        }
    }
    for n_rows in [512, 2048].into_iter().filter(|_| wanted("prefill")) {
        let format = word(1).map_or(Some(Format::Q4_0), named).ok_or("there is no such format")?;
        prefill(cuda, (MISTRAL, format), n_rows).map_err(text)?;
    }
    let is_wanted = |n: &u32| wanted("mixed") && word(1).is_none_or(|rows| rows == n.to_string());
    for n_rows in [8, 32, 128, 256, 512].into_iter().filter(is_wanted) {
        mixed(cuda, MISTRAL, n_rows).map_err(text)?;
    }
    for n_rows in [1, 8, 64].into_iter().filter(|_| wanted("experts")) {
        experts(cuda, &vec![(1, 1); n_rows]).map_err(text)?;
    }
    for n_rows in [512, 2048].into_iter().filter(|_| wanted("experts")) {
        experts(cuda, &[(n_rows, n_rows)]).map_err(text)?;
    }
    if wanted("choose") {
        choosing::bench(cuda)?;
    }
    Ok(())
}

/// Gate and up of Mistral-7B, several sets in turn so that none stays in the L2 cache.
fn matvec(cuda: &mut Cuda, format: Format, n_rows: u32) -> Result<(), Error> {
    const SETS: usize = 8;
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, "matvec".into(), NO_BOUND);
    let x = case.input("x", MISTRAL.n_embd, 1.0);
    let (out, cols) = (case.buffer("out", 2 * MISTRAL.n_ff), MISTRAL.n_embd);
    let weight = matrix(case.random, "w", format, 2 * MISTRAL.n_ff, cols);
    let bytes = SETS * weight.bytes().len();
    for _ in 0..SETS {
        // The same bytes, uploaded once more.
        let weight = case.weight(|_| weight.clone());
        case.push(NormLinear { x, norm: None, projections: vec![Projection { weight, bias: None, out }] });
    }
    let case = case.build_rows(n_rows, vec![out]);
    let seconds = median_seconds(cuda, &case, 40)?;
    println!(
        "matvec {format} {n_rows} rows, [{}, {cols}]: {:.1} µs each, {:.2} TB/s of weights",
        2 * MISTRAL.n_ff,
        seconds / SETS as f64 * 1e6,
        bytes as f64 / seconds / 1e12
    );
    Ok(())
}

/// A feed-forward layer of experts as Qwen3-30B-A3B has it, several in turn.
fn experts(cuda: &mut Cuda, sequences: &[(u32, u32)]) -> Result<(), Error> {
    const LAYERS: usize = 4;
    const N: (usize, usize) = (128, 8);
    let shape = Shape { n_embd: 2048, n_ff: 768, experts: Some(N), ..SMOLLM2 };
    let format = Format::Q4_0;
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, "experts".into(), NO_BOUND);
    let x = case.input("x", shape.n_embd, 1.0);
    let values = shape.values(case.random, [format; 7]);
    for _ in 0..LAYERS {
        let layer = shape.layer(&mut case, &values);
        shape.experts(&mut case, &layer, x, N);
    }
    let cache = CacheConfig::default();
    let runs = vec![inputs(&cache, sequences)];
    let case = case.build(cache, runs, vec![x]);
    let seconds = median_seconds(cuda, &case, 20)? / LAYERS as f64;
    let n_rows: u32 = sequences.iter().map(|(n_rows, _)| n_rows).sum();
    // Rows choose as if at random.
    let chosen = N.0 as f64 * (1.0 - (1.0 - N.1 as f64 / N.0 as f64).powi(n_rows as i32));
    let bytes = chosen * (3 * format.row_bytes(shape.n_embd).unwrap_or(0) * shape.n_ff) as f64;
    println!(
        "experts {format}, {} of {} of [{}, {}], {n_rows} rows in {} sequences: {:.1} µs a layer, {:.2} TB/s of {chosen:.0} experts' weights",
        N.1,
        N.0,
        shape.n_ff,
        shape.n_embd,
        sequences.len(),
        seconds * 1e6,
        bytes / seconds / 1e12
    );
    Ok(())
}

/// Whole decode steps of so many sequences.
fn decode(
    cuda: &mut Cuda,
    (shape, format): (Shape, Format),
    (n_rows, n_context): (usize, u32),
) -> Result<(), Error> {
    let seconds = step_seconds(cuda, (shape, format), shape.n_layers, &vec![(1, n_context); n_rows])?;
    println!(
        "decode {} {format}, {} layers, {n_rows} rows, context {n_context}: {:.2} ms, {:.0} tokens/s",
        shape.name,
        shape.n_layers,
        seconds * 1e3,
        n_rows as f64 / seconds
    );
    Ok(())
}

/// Whole steps of one prompt. What a layer takes tells of more of them: embedding and head
/// are the difference to none.
fn prefill(cuda: &mut Cuda, (shape, format): (Shape, Format), n_rows: u32) -> Result<(), Error> {
    const LAYERS: [usize; 2] = [1, 5];
    let [few, many] =
        LAYERS.map(|n_layers| step_seconds(cuda, (shape, format), n_layers, &[(n_rows, n_rows)]));
    let (few, many) = (few?, many?);
    let layer = (many - few) / (LAYERS[1] - LAYERS[0]) as f64;
    let model = few + (shape.n_layers - LAYERS[0]) as f64 * layer;
    println!(
        "prefill {} {format}, {n_rows} rows: {:.3} ms a layer, {:.2} ms for {} layers, {:.0} tokens/s",
        shape.name,
        layer * 1e3,
        model * 1e3,
        shape.n_layers,
        f64::from(n_rows) / model
    );
    Ok(())
}

/// What so many rows in the middle of a long prompt add to a decoding step of 64 sequences.
fn mixed(cuda: &mut Cuda, shape: Shape, n_rows: u32) -> Result<(), Error> {
    let mut sequences = vec![(1, 512); 64];
    let format = Format::Q4_0;
    let alone = step_seconds(cuda, (shape, format), shape.n_layers, &sequences)?;
    sequences.push((n_rows, 4096));
    let together = step_seconds(cuda, (shape, format), shape.n_layers, &sequences)?;
    println!(
        "mixed {} {format}: 64 rows {:.2} ms, with {n_rows} rows of a prompt at 4096 {:.2} ms",
        shape.name,
        alone * 1e3,
        together * 1e3
    );
    Ok(())
}

/// Seconds of a whole step, `(rows, context)` of each sequence, with layers that share their
/// weights' values, not their memory.
fn step_seconds(
    cuda: &mut Cuda,
    (shape, format): (Shape, Format),
    n_layers: usize,
    sequences: &[(u32, u32)],
) -> Result<f64, Error> {
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, "step".into(), NO_BOUND);
    let values = shape.values(case.random, [format; 7]);
    let layers: Vec<_> = (0..n_layers).map(|_| shape.layer(&mut case, &values)).collect();
    let table = shape.table(&mut case, format);
    let logits = shape.model(&mut case, &layers, table);
    // Every sequence has the share of the longest.
    let longest = sequences.iter().map(|(_, n_context)| n_context.div_ceil(PAGE_SIZE)).max().unwrap_or(1);
    let n_pages = longest * sequences.len() as u32;
    let cache = shape.cache(n_layers, n_pages);
    let runs = vec![inputs(&cache, sequences)];
    let case = case.build(cache, runs, vec![logits]);
    median_seconds(cuda, &case, 20)
}

/// The median of `n` runs of a case, each waited for.
fn median_seconds(cuda: &mut Cuda, case: &Case, n: usize) -> Result<f64, Error> {
    cuda.load(case.weights.clone())?;
    cuda.create_cache(&case.cache)?;
    let lowered = cuda.lower(&case.step, case.bucket())?;
    for &(id, magnitude) in &case.fill {
        let len = case.runs[0].tokens.len() * case.step.desc(id)?.cols;
        cuda.write(lowered, id, &Random::new(SEED).values(len, magnitude))?;
    }
    let mut times = Vec::new();
    for _ in 0..n + 5 {
        cuda.runtime().synchronize()?;
        let start = Instant::now();
        cuda.run(lowered, &case.runs[0])?;
        cuda.runtime().synchronize()?;
        times.push(start.elapsed().as_secs_f64());
    }
    // The first few warm up.
    let times = &mut times[5..];
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
