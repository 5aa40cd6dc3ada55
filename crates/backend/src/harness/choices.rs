//! Likeliest tokens as a device finds them, beside a slow search of the logits that it gives.

use gguf::Format;

use super::{Case, CaseBuilder, Random, matrix, norm_weight, odd_cols};
use crate::bounds;
use crate::kernels::head::Head;
use crate::kernels::rms_norm::Norm;
use crate::{Backend, Completed, Draw, MAX_LIKELIEST, Result, Submission, Wanted, Weight};

/// Rows of a case, each with other logits.
const ROWS: u32 = 7;
/// How often each row draws in each way, and of a vocabulary whose head takes seconds where kernels are emulated.
const DRAWS: (usize, usize) = (3, 1);
/// The smallest such vocabulary.
const LARGE: usize = 10_000;
/// Vocabularies: smaller than a chunk and than what is wanted, not a multiple of anything, with
/// more chunks than threads find side by side.
const VOCABS: [usize; 8] = [1, 5, 31, 33, 101, 1025, 4099, 70_001];
/// Makes the smallest logits zeros of both signs, and others too small to be normal.
const TINY: f32 = 1e-30;

/// What rows want in turn.
fn wanted(random: &mut Random) -> [Wanted; 9] {
    const ALL: u32 = MAX_LIKELIEST as u32;
    let mut draw = |top_k, temperature, top_p, min_p| {
        let uniform = f64::from(random.below(1 << 30) as u32) / f64::from(1 << 30);
        Wanted::Drawn(Draw::new(top_k, temperature, top_p, min_p, uniform))
    };
    [
        Wanted::Token,
        Wanted::Likeliest(1),
        draw(40, 0.8, 0.95, 0.05),
        Wanted::Likeliest(40),
        Wanted::Logits,
        draw(ALL, 5.0, 1.0, 0.0),
        Wanted::Likeliest(ALL),
        draw(33, 0.01, 0.3, 0.0),
        Wanted::Logits,
    ]
}

/// What the logits of a case are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Different,
    Equal,
    Infinite,
    Zeros,
    NoNumbers,
}

/// Heads whose likeliest tokens are found, for [`check_choices`].
pub fn choices(seed: u64) -> Vec<Case> {
    let mut random = Random::new(seed);
    let mut cases: Vec<_> =
        VOCABS.iter().map(|&n_vocab| case(&mut random, n_vocab, Kind::Different)).collect();
    cases.push(small(&mut random));
    for kind in [Kind::Equal, Kind::Infinite, Kind::Zeros, Kind::NoNumbers] {
        cases.extend([5, 101, 1025].map(|n_vocab| case(&mut random, n_vocab, kind)));
    }
    cases
}

/// A small one, of a format that models have.
pub(super) fn small(random: &mut Random) -> Case {
    let (format, n_vocab) = (Format::Q8_0, 1025);
    let weight = matrix(random, "w", format, n_vocab, odd_cols(format));
    head(random, format!("choose {n_vocab} {format}"), weight, 1.0)
}

fn case(random: &mut Random, n_vocab: usize, kind: Kind) -> Case {
    let weight = weight(random, n_vocab, odd_cols(Format::F32), kind);
    let scale = if kind == Kind::Zeros { TINY } else { 1.0 };
    head(random, format!("choose {n_vocab} {kind:?}"), weight, scale)
}

fn head(random: &mut Random, name: String, weight: Weight, scale: f32) -> Case {
    let (n_vocab, cols) = (weight.rows(), weight.cols());
    let mut case = CaseBuilder::new(random, name, bounds::linear(weight.format(), cols));
    let norm = Norm { weight: case.weight(|random| norm_weight(random, cols)), eps: 1e-5 };
    let weight = case.weight(|_| weight);
    let (x, out) = (case.input("x", cols, 2.0), case.outputs("logits", n_vocab));
    case.push(Head { x, norm, weight, scale, softcap: None, out });
    let mut case = case.build_rows(ROWS, vec![out]);
    case.runs[0].outputs = (0..ROWS).collect();
    case
}

fn weight(random: &mut Random, n_vocab: usize, cols: usize, kind: Kind) -> Weight {
    let n_different = if kind == Kind::Different { n_vocab } else { n_vocab.div_ceil(5) };
    let rows: Vec<Vec<f32>> = (0..n_different).map(|_| random.values(cols, 1.0)).collect();
    let mut bytes = Vec::with_capacity(4 * n_vocab * cols);
    for i in 0..n_vocab {
        let n_kinds = if kind == Kind::Different { i } else { random.below(n_different) };
        let mut row = rows[n_kinds].clone();
        match (kind, random.below(6)) {
            (Kind::Infinite, 0) | (Kind::NoNumbers, 0) => row[0] = f32::NEG_INFINITY,
            (Kind::Infinite, 1) => row[0] = f32::INFINITY,
            (Kind::Infinite, 2) | (Kind::NoNumbers, _) => row[0] = f32::NAN,
            // Times TINY: below all floats, below the normal ones, about 1.
            (Kind::Zeros, 0..3) => row.iter_mut().for_each(|x| *x *= 1e-20),
            (Kind::Zeros, 3) => row.iter_mut().for_each(|x| *x *= 1e-10),
            (Kind::Zeros, _) => row.iter_mut().for_each(|x| *x *= 1e30),
            _ => {}
        }
        bytes.extend(row.iter().flat_map(|x| x.to_le_bytes()));
    }
    Weight::new("w", Format::F32, n_vocab, cols, bytes.into()).expect("F32 takes any shape")
}

/// Compares what a device that overlaps steps finds with its own logits, to the bit; the
/// neighbours of each row want something else each time.
///
/// # Errors
/// Text for people: the first row that is wrong.
pub fn check_choices(case: &Case, backend: &mut dyn Backend, seed: u64) -> Result<(), String> {
    let name = backend.name();
    let fail = |what: String| format!("{} on {name}, seed {seed}: {what}", case.name);
    let (logits, found) = run(case, backend, seed).map_err(|e| fail(e.to_string()))?;
    let rows: Vec<&[f32]> = logits.chunks_exact(logits.len() / ROWS as usize).collect();
    found.iter().try_for_each(|(wanted, found)| compare(&rows, wanted, found).map_err(fail))
}

/// A case's logits, and what was wanted and found of it.
type Found = (Vec<f32>, Vec<(Vec<Wanted>, Completed)>);

fn run(case: &Case, backend: &mut dyn Backend, seed: u64) -> Result<Found> {
    let (inputs, logits) = (&case.runs[0], case.compare[0]);
    let (x, magnitude) = case.fill[0];
    let x_values = Random::new(seed).values(ROWS as usize * case.step.desc(x)?.cols, magnitude);
    backend.load(case.weights.clone())?;
    backend.create_cache(&case.cache)?;
    let lowered = backend.lower(&case.step, case.bucket())?;
    backend.write(lowered, x, &x_values)?;
    backend.run(lowered, inputs)?;
    let (mut values, mut found) = (Vec::new(), Vec::new());
    backend.read(lowered, logits, &mut values)?;
    let mut random = Random::new(seed);
    let n_kinds = wanted(&mut random).len();
    let n_draws = if values.len() / (ROWS as usize) < LARGE { DRAWS.0 } else { DRAWS.1 };
    for first in 0..n_draws * n_kinds {
        let kinds = wanted(&mut random);
        let wanted: Vec<_> =
            kinds.iter().cycle().skip(first % n_kinds).take(ROWS as usize).copied().collect();
        backend.write(lowered, x, &x_values)?;
        backend.submit(lowered, &Submission { inputs, logits, wanted: &wanted, carried: &[], rows: None })?;
        found.push((wanted, backend.complete()?));
    }
    Ok((values, found))
}

fn compare(rows: &[&[f32]], wanted: &[Wanted], found: &Completed) -> Result<(), String> {
    let (mut likeliest, mut logits) = (&found.likeliest[..], &found.logits[..]);
    for (row, ((all, wanted), token)) in rows.iter().zip(wanted).zip(&found.tokens).enumerate() {
        let n = wanted.n_likeliest() as usize;
        let expected = slow(all, n);
        let is_right = match wanted {
            Wanted::Drawn(draw) => *token == draw.token(expected.iter().copied()),
            Wanted::Token => *token == expected.first().map(|t| t.0).filter(|&id| id != u32::MAX),
            Wanted::Likeliest(_) => {
                let own = likeliest.split_off(..n).ok_or("tokens are missing")?;
                let bits = |tokens: &[(u32, f32)]| -> Vec<_> {
                    tokens.iter().map(|(id, logit)| (*id, logit.to_bits())).collect()
                };
                token.is_none() && bits(own) == bits(&expected)
            }
            Wanted::Logits => {
                let own = logits.split_off(..all.len()).ok_or("logits are missing")?;
                token.is_none() && own.iter().zip(*all).all(|(a, b)| a.to_bits() == b.to_bits())
            }
        };
        if !is_right {
            return Err(format!("row {row} gives wrong results of {wanted:?}"));
        }
    }
    if likeliest.is_empty() && logits.is_empty() { Ok(()) } else { Err("more comes than was wanted".into()) }
}

/// The `n` likeliest, by sorting them all.
fn slow(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut tokens: Vec<(u32, f32)> =
        (0..).zip(logits.iter().copied()).filter(|(_, logit)| *logit > f32::NEG_INFINITY).collect();
    // Which keeps the order of ids among equals.
    tokens.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("NaN is left out"));
    tokens.resize(n.max(tokens.len()), (u32::MAX, f32::NEG_INFINITY));
    tokens.truncate(n);
    tokens
}
