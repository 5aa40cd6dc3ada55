//! Writing blocks: errors no worse than the peer's, bounded for any values, and
//! never a panic.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use quarrel_gguf::format::Support;
use quarrel_gguf::format::iq4::IQ4_VALUES;
use quarrel_gguf::{Error, Format, ModelFile};

const ROWS: usize = 256;
const COLUMNS: usize = 256;

/// Numbers of (0, 1) from splitmix64, as goldens_quantize.py makes them.
fn uniforms(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (((z ^ (z >> 31)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        })
        .collect()
}

fn gaussian(n: usize) -> Vec<f64> {
    let one = |u: &[f64]| 0.02 * (-2.0 * u[0].ln()).sqrt() * (std::f64::consts::TAU * u[1]).cos();
    uniforms(1, 2 * n).chunks(2).map(one).collect()
}

fn laplace(n: usize) -> Vec<f64> {
    let one = |u: &[f64]| 0.02 * u[0].ln() * if u[1] < 0.5 { -1.0 } else { 1.0 };
    uniforms(2, 2 * n).chunks(2).map(one).collect()
}

fn outliers(n: usize) -> Vec<f64> {
    let columns = uniforms(4, COLUMNS);
    let large = uniforms(3, n).into_iter().map(|u| if u < 1.0 / 64.0 { 8.0 } else { 1.0 });
    let sized = gaussian(n).into_iter().enumerate().map(|(i, x)| x * (0.25 + columns[i % COLUMNS]));
    sized.zip(large).map(|(x, factor)| x * factor).collect()
}

fn rounded(values: Vec<f64>) -> Vec<f32> {
    values.into_iter().map(|x| x as f32).collect()
}

/// The first rows of a real model's embedding.
fn trained(n: usize) -> Vec<f32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/smollm2-135m.gguf");
    let file = ModelFile::open(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask fixtures` first", path.display()));
    let tensor = file.tensor("token_embd.weight").unwrap();
    let mut values = vec![0.0; n];
    let format = tensor.format;
    format.dequantize(&tensor.data[..format.row_bytes(n).unwrap()], &mut values).unwrap();
    values
}

/// The root mean square of what `format` loses of `values`.
fn rms_error(format: Format, values: &[f32]) -> f64 {
    let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
    let mut back = vec![0.0; values.len()];
    format.quantize(values, &mut bytes).unwrap();
    format.dequantize(&bytes, &mut back).unwrap();
    let squares = values.iter().zip(&back).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2));
    (squares.sum::<f64>() / values.len() as f64).sqrt()
}

/// Checks every format on `values` against the golden errors of `data`.
fn compare_with_peer(data: &str, values: &[f32]) {
    // Made by goldens_quantize.py.
    let mut goldens: BTreeMap<String, BTreeMap<String, f64>> =
        serde_json::from_str(include_str!("data/quantize.json")).unwrap();
    let peers = goldens.remove(data).unwrap();
    // F32 loses nothing, so that there is nothing to compare.
    for format in writable().filter(|&format| format != Format::F32) {
        let (ours, peer) = (rms_error(format, values), peers[format.name()]);
        // The bar: no worse than llama.cpp's within 2 %.
        assert!(ours <= 1.02 * peer, "{format} on {data}: {ours:e}, peer {peer:e}");
    }
}

#[test]
fn errors_on_seeded_data_are_no_worse_than_the_peers() {
    compare_with_peer("gaussian", &rounded(gaussian(ROWS * COLUMNS)));
    compare_with_peer("laplace", &rounded(laplace(ROWS * COLUMNS)));
    compare_with_peer("outliers", &rounded(outliers(ROWS * COLUMNS)));
}

#[test]
fn errors_on_trained_rows_are_no_worse_than_the_peers() {
    compare_with_peer("trained", &trained(ROWS * COLUMNS));
}

fn writable() -> impl Iterator<Item = Format> {
    Format::ALL.iter().copied().filter(|format| format.support() == Support::Full)
}

/// The most that `format` may lose of values between −1 and 1, as a root mean
/// square over a block.
///
/// With `n` steps over the range that a block spans, no more than 2 wide, the
/// nearest level is half a step away; where one side has a level less, the
/// outermost value is up to a whole step away, and an offset of zero at most
/// doubles the span of a group far from zero. Scales of the K formats are
/// themselves rounded to one of `top` steps, which moves the outermost level by
/// as much as half of one. A search by squared error only ever lowers the sum.
/// Half floats round by 2^-11.
fn bound(format: Format) -> f64 {
    let two_levels = |n: f64, top: f64| 2.0 / n + 2.0 / top;
    let half = 2f64.powi(-10);
    match format {
        Format::F32 => 0.0,
        Format::F16 => 2f64.powi(-11),
        Format::BF16 => 2f64.powi(-8),
        Format::Q8_0 => 1.0 / 127.0 + half,
        Format::Q4_0 => 2.0 / 15.0 + half,
        Format::Q4_1 => 2.0 / 15.0 + half,
        Format::Q5_0 => 2.0 / 31.0 + half,
        Format::Q5_1 => 2.0 / 31.0 + half,
        Format::Q2_K => two_levels(3.0, 15.0) + half,
        Format::Q3_K => two_levels(7.0, 32.0) + half,
        Format::Q4_K => two_levels(15.0, 63.0) + half,
        Format::Q5_K => two_levels(31.0, 63.0) + half,
        Format::Q6_K => two_levels(63.0, 127.0) + half,
        // Its widest step is 24 of a range of 240.
        Format::IQ4_NL => 2.0 * 24.0 / 240.0 + half,
        // Three levels, as far out on either side as the largest value.
        Format::TQ2_0 => 0.5 + half,
        other => panic!("{other} is not written"),
    }
}

#[test]
fn what_is_not_written_says_so() {
    for &format in Format::ALL.iter().filter(|format| format.support() != Support::Full) {
        let mut bytes = vec![0; format.block_bytes()];
        let result = format.quantize(&vec![0.0; format.block_len()], &mut bytes);
        assert!(matches!(result, Err(Error::UnsupportedFormat { .. })), "{format}");
    }
    assert!(matches!(Format::Q4_0.quantize(&[0.0; 33], &mut [0; 18]), Err(Error::RowLength { .. })));
    assert!(matches!(Format::Q4_0.quantize(&[0.0; 32], &mut [0; 17]), Err(Error::BufferSize { .. })));
    assert!(matches!(Format::F32.quantize(&[0.0; 32], &mut [0; 127]), Err(Error::BufferSize { .. })));
}

#[test]
fn what_a_format_can_hold_is_held_exactly() {
    for format in writable() {
        assert_eq!(rms_error(format, &[0.0; 256]), 0.0, "{format}");
    }
    let eighths = |levels: &[i8]| -> Vec<f32> {
        levels.iter().cycle().take(levels.len().next_multiple_of(32)).map(|&q| f32::from(q) / 8.0).collect()
    };
    for (format, levels) in [
        (Format::Q4_0, (-8..=7).collect::<Vec<i8>>()),
        (Format::Q4_1, (-3..=12).collect()),
        (Format::Q5_0, (-16..=15).collect()),
        (Format::Q5_1, (1..=32).collect()),
        (Format::Q8_0, (96..=127).collect()),
        (Format::IQ4_NL, IQ4_VALUES.to_vec()),
        (Format::TQ2_0, (-1..=1).cycle().take(256).collect()),
    ] {
        assert_eq!(rms_error(format, &eighths(&levels)), 0.0, "{format}");
    }
}

#[test]
fn a_whole_row_is_its_blocks() {
    let values = rounded(gaussian(1024));
    for format in writable() {
        let mut whole = vec![0; format.row_bytes(1024).unwrap()];
        format.quantize(&values, &mut whole).unwrap();
        let bytes = format.row_bytes(256).unwrap();
        for (values, whole) in values.chunks(256).zip(whole.chunks(bytes)) {
            let mut part = vec![0; bytes];
            format.quantize(values, &mut part).unwrap();
            assert_eq!(part, whole, "{format}");
        }
    }
}

/// Blocks of every kind: smooth, with outliers, one-sided, far from zero, sparse.
fn block() -> impl Strategy<Value = Vec<f32>> {
    let value =
        prop_oneof![-1.0..1.0_f32, 0.0..1.0_f32, 0.9..1.0_f32, -0.01..0.01_f32, Just(0.0), Just(-1.0)];
    prop_oneof![
        prop::collection::vec(value, 256),
        prop::collection::vec(-1.0..1.0_f32, 256),
        prop::collection::vec(0.9..1.0_f32, 256),
        prop::collection::vec(prop_oneof![9 => -0.01..0.01_f32, 1 => -1.0..1.0_f32], 256),
    ]
}

/// Whatever was written, blocks give finite numbers; plain floats keep infinities and NaN.
fn reads_back_as_numbers(values: &[f32]) -> Result<(), TestCaseError> {
    for format in writable() {
        let mut bytes = vec![0; format.row_bytes(values.len()).unwrap()];
        let mut back = vec![0.0; values.len()];
        format.quantize(values, &mut bytes).unwrap();
        format.dequantize(&bytes, &mut back).unwrap();
        prop_assert!(format.block_len() == 1 || back.iter().all(|x| x.is_finite()), "{format}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn errors_are_bounded(values in block(), exponent in -8..8) {
        let scale = 2f32.powi(exponent);
        let values: Vec<f32> = values.into_iter().map(|x| x * scale).collect();
        for format in writable() {
            for values in values.chunks(format.block_len().max(32)) {
                let error = rms_error(format, values) / f64::from(scale);
                prop_assert!(error <= bound(format), "{format}: {error} > {}", bound(format));
            }
        }
    }

    #[test]
    fn any_values_are_written_and_read_back_as_numbers(bits in prop::collection::vec(any::<u32>(), 256)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        reads_back_as_numbers(&values)?;
    }

    #[test]
    fn values_at_the_ends_of_the_range_are_no_trouble(
        values in prop::collection::vec(
            prop::sample::select(vec![
                0.0, -0.0, 1.0, -1.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, 65504.0, 1e-8,
                f32::NAN, f32::INFINITY, f32::NEG_INFINITY,
            ]),
            256,
        ),
    ) {
        reads_back_as_numbers(&values)?;
    }
}
