//! What it takes to find outputs' likeliest tokens, beside copying all their logits.

use std::time::Instant;

use gguf::Format;
use quarrel_backend::cuda::Cuda;
use quarrel_backend::harness::{Case, CaseBuilder, Random, matrix, norm_weight};
use quarrel_backend::kernels::head::Head;
use quarrel_backend::kernels::rms_norm::Norm;
use quarrel_backend::{Backend, Draw, Error, LoweredId, MAX_LIKELIEST, Submission, Wanted};

use crate::bench::NO_BOUND;
use crate::{Done, SEED, text};

/// Rows and logits: many replies, and one of a large vocabulary.
const SHAPES: [(u32, usize); 3] = [(64, 32_000), (1, 32_000), (1, 152_064)];
const REPETITIONS: usize = 40;
/// Elements of a row that the head multiplies: few, so that it does not take long.
const COLS: usize = 576;

/// Whole steps of a small head, until the host has what it wants of them.
pub fn bench(cuda: &mut Cuda) -> Done {
    SHAPES.iter().try_for_each(|&shape| measure(cuda, shape)).map_err(text)
}

fn measure(cuda: &mut Cuda, (n_rows, n_vocab): (u32, usize)) -> Result<(), Error> {
    let case = head(n_rows, n_vocab);
    cuda.load(case.weights.clone())?;
    cuda.create_cache(&case.cache)?;
    let lowered = cuda.lower(&case.step, case.bucket())?;
    let (x, magnitude) = case.fill[0];
    cuda.write(lowered, x, &Random::new(SEED).values(n_rows as usize * COLS, magnitude))?;
    let mut line = format!("choose {n_rows} rows of {n_vocab}:");
    let most = Wanted::Likeliest(MAX_LIKELIEST as u32);
    let draw = Draw::new(40, 0.8, 0.95, 0.05, 0.5);
    let kinds = [
        ("all", Wanted::Logits),
        ("the likeliest", Wanted::Token),
        ("the 40 likeliest", Wanted::Likeliest(40)),
        ("one of these", Wanted::Drawn(draw)),
        ("the 128 likeliest", most),
    ];
    for (name, wanted) in kinds {
        let seconds = median_seconds(cuda, lowered, &case, wanted)?;
        line += &format!(" {name} {:.1} µs", seconds * 1e6);
    }
    println!("{line}");
    Ok(())
}

fn head(n_rows: u32, n_vocab: usize) -> Case {
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, "choose".into(), NO_BOUND);
    let norm = Norm { weight: case.weight(|random| norm_weight(random, COLS)), eps: 1e-5 };
    let weight = case.weight(|random| matrix(random, "w", Format::Q8_0, n_vocab, COLS));
    let (x, out) = (case.input("x", COLS, 2.0), case.outputs("logits", n_vocab));
    case.push(Head { x, norm, weight, scale: 1.0, softcap: None, out });
    let mut case = case.build_rows(n_rows, vec![out]);
    case.runs[0].outputs = (0..n_rows).collect();
    case
}

/// The median of steps one after the other.
fn median_seconds(cuda: &mut Cuda, id: LoweredId, case: &Case, wanted: Wanted) -> Result<f64, Error> {
    let inputs = &case.runs[0];
    let wanted = vec![wanted; inputs.outputs.len()];
    let submission =
        Submission { inputs, logits: case.compare[0], wanted: &wanted, carried: &[], rows: None };
    let mut times = Vec::new();
    for _ in 0..REPETITIONS + 5 {
        let start = Instant::now();
        cuda.submit(id, &submission)?;
        cuda.complete()?;
        times.push(start.elapsed().as_secs_f64());
    }
    // The first few warm up.
    let times = &mut times[5..];
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
