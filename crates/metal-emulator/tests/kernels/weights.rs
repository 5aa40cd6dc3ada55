//! Every format's weights, unpacked by kernels, beside what the format is defined to hold.

use backend::harness::{self, CaseBuilder, Random};
use backend::kernels::embed::Embed;
use backend::kernels::norm_linear::{NormLinear, Projection};
use backend::{Backend as _, CacheConfig, TokenInputs, Weight, bounds};
use gguf::Format;
use gguf::format::f16;

use super::{SEED, emulator};

/// Columns: a whole number of every format's blocks.
const COLS: usize = 256;
const ROWS: usize = 5;

/// A block of random bits with values that a half can be near to, the smallest exponents among them.
fn block(random: &mut Random, format: Format) -> Vec<u8> {
    loop {
        let bytes: Vec<u8> = (0..format.block_bytes()).map(|_| random.bits() as u8).collect();
        let mut values = vec![0.0; format.block_len()];
        format.dequantize(&bytes, &mut values).expect("a block");
        if values.iter().all(|value| value.abs() <= 60_000.0) {
            return bytes;
        }
    }
}

fn weight(random: &mut Random, format: Format) -> Weight {
    let blocks = ROWS * COLS / format.block_len();
    let bytes: Vec<u8> = (0..blocks).flat_map(|_| block(random, format)).collect();
    Weight::new("w", format, ROWS, COLS, bytes.into()).expect("whole rows")
}

/// The rows of the weight in order, by what a lookup gives.
fn embedded(weight: &Weight) -> Vec<f32> {
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, "embed".to_owned(), bounds::float_sum(1));
    let table = case.weight(|_| weight.clone());
    let out = case.buffer("out", COLS);
    case.push(Embed { table, scale: 1.0, out });
    let mut case = case.build_rows(ROWS as u32, vec![out]);
    case.runs[0].tokens = TokenInputs::Ids((0..ROWS as u32).collect());
    case.run_on(&mut emulator(), SEED).unwrap().remove(0).1
}

/// The same by a map of as many rows as there are columns, of which each has a one in a column and else zeros.
fn mapped(weight: &Weight, sequences: &[(u32, u32)]) -> Vec<f32> {
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, "map".to_owned(), bounds::float_sum(1));
    let weight = case.weight(|_| weight.clone());
    let (x, out) = (case.buffer("x", COLS), case.buffer("out", ROWS));
    let projections = vec![Projection { weight, bias: None, out }];
    case.push(NormLinear { x, norm: None, projections });
    let cache = CacheConfig::default();
    let inputs = harness::inputs(&cache, sequences);
    let case = case.build(cache, vec![inputs], vec![out]);
    let ones: Vec<f32> = (0..COLS * COLS).map(|i| if i % (COLS + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let (mut metal, mut columns) = (emulator(), Vec::new());
    metal.load(case.weights.clone()).unwrap();
    metal.create_cache(&case.cache).unwrap();
    let id = metal.lower(&case.step, case.bucket()).unwrap();
    metal.write(id, x, &ones).unwrap();
    metal.run(id, &case.runs[0]).unwrap();
    metal.read(id, out, &mut columns).unwrap();
    (0..ROWS * COLS).map(|i| columns[i % COLS * ROWS + i / COLS]).collect()
}

/// Panics at the first of `found` that is not `expected`, or not within a part `epsilon` of the row's largest.
fn compare(what: &str, expected: &[f32], found: &[f32], epsilon: f32) {
    assert_eq!(expected.len(), found.len(), "{what}");
    for (i, (row, found)) in expected.chunks(COLS).zip(found.chunks(COLS)).enumerate() {
        let largest = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        for (j, (expected, found)) in row.iter().zip(found).enumerate() {
            let is_right = (expected - found).abs() <= epsilon * largest;
            assert!(is_right, "{what}: row {i}, column {j} is {found}, not {expected}");
        }
    }
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn every_formats_weights_are_those_of_its_definition() {
    let mut random = Random::new(SEED);
    for format in harness::formats() {
        let weight = weight(&mut random, format);
        let mut expected = vec![0.0; ROWS * COLS];
        for (row, values) in expected.chunks_mut(COLS).enumerate() {
            weight.dequantize_row(row, values).unwrap();
        }
        compare(&format!("{format} embedded"), &expected, &embedded(&weight), 0.0);
        // Maps round once where the definition does twice: after the product and after the offset.
        let has_offsets = matches!(format, Format::Q2_K | Format::Q4_K | Format::Q5_K);
        let epsilon = if has_offsets { f32::EPSILON } else { 0.0 };
        let generated = mapped(&weight, &[(1, 1); COLS]);
        compare(&format!("{format} of generated rows"), &expected, &generated, epsilon);
        let halves = |x: &f32| f16::from_f32(*x).to_f32();
        let expected = match format {
            Format::F32 | Format::BF16 => expected,
            _ => expected.iter().map(halves).collect(),
        };
        // A half's last bit where it was rounded from another float.
        let epsilon = if has_offsets { 1.0 / 1024.0 } else { 0.0 };
        let prompt = mapped(&weight, &[(COLS as u32, COLS as u32)]);
        compare(&format!("{format} of prompts"), &expected, &prompt, epsilon);
    }
}
