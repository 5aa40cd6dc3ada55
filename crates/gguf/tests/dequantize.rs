//! Reading blocks: bit for bit what PyPI `gguf` reads, and one truth for
//! values, integers and dot products.

use proptest::prelude::*;
use quarrel_gguf::format::{Block, Float, Support, Visitor};
use quarrel_gguf::{Error, Format};

fn readable() -> impl Iterator<Item = Format> {
    Format::ALL.iter().copied().filter(|format| format.support() != Support::Listed)
}

/// What a format says about its groups; none for plain floats.
struct Groups;

impl Visitor for Groups {
    type Output = Option<(usize, bool, (i8, i8))>;
    fn float<F: Float>(self) -> Self::Output {
        None
    }
    fn block<B: Block>(self) -> Self::Output {
        Some((B::GROUP, B::HAS_OFFSET, B::RANGE))
    }
    fn opaque(self) -> Self::Output {
        None
    }
}

/// Equal bits, or both NaN: a NaN's payload is nobody's promise.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// The next `n` bytes of `data`.
fn take<'a>(data: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (head, tail) = data.split_at(n);
    *data = tail;
    head
}

fn take_u32(data: &mut &[u8]) -> u32 {
    u32::from_le_bytes(take(data, 4).try_into().unwrap())
}

#[test]
fn values_are_bit_exact_with_the_python_package() {
    // Made by goldens_dequantize.py.
    let mut data = &include_bytes!("data/dequantize.bin")[..];
    let mut seen = Vec::new();
    while !data.is_empty() {
        let format = Format::from_id(take_u32(&mut data)).unwrap();
        let n_blocks = take_u32(&mut data) as usize;
        let blocks = take(&mut data, n_blocks * format.block_bytes());
        let mut values = vec![0.0; n_blocks * format.block_len()];
        format.dequantize(blocks, &mut values).unwrap();
        for (i, value) in values.iter().enumerate() {
            let expected = f32::from_bits(take_u32(&mut data));
            assert!(same(*value, expected), "{format}, element {i}: {value:e}, expected {expected:e}");
        }
        seen.push(format);
    }
    seen.sort();
    let mut all: Vec<_> = readable().collect();
    all.sort();
    assert_eq!(seen, all, "every readable format has goldens");
}

#[test]
fn lengths_that_do_not_agree_are_errors() {
    let mut dst = [0.0; 31];
    assert!(matches!(Format::Q4_0.dequantize(&[0; 18], &mut dst), Err(Error::RowLength { .. })));
    let mut dst = [0.0; 32];
    assert!(matches!(Format::Q4_0.dequantize(&[0; 17], &mut dst), Err(Error::BufferSize { .. })));
    assert!(matches!(Format::Q4_0.dot(&[0; 36], &dst), Err(Error::BufferSize { .. })));
    assert!(matches!(Format::F32.dot(&[0; 127], &dst), Err(Error::BufferSize { .. })));
    assert_eq!(Format::F32.row_bytes(usize::MAX).unwrap(), usize::MAX, "too many to count, not a panic");
    let (mut q, mut s, mut o) = ([0; 32], [0.0; 1], [0.0; 1]);
    assert!(Format::Q4_1.unpack_block(&[0; 20], &mut q, &mut s, &mut o).is_ok());
    for result in [
        Format::Q4_1.unpack_block(&[0; 19], &mut q, &mut s, &mut o),
        Format::Q4_1.unpack_block(&[0; 20], &mut q[..31], &mut s, &mut o),
        Format::Q4_1.unpack_block(&[0; 20], &mut q, &mut [], &mut o),
        Format::Q4_1.unpack_block(&[0; 20], &mut q, &mut s, &mut []),
    ] {
        assert!(matches!(result, Err(Error::BufferSize { .. })));
    }
}

#[test]
fn formats_that_are_only_listed_say_so() {
    for &format in Format::ALL.iter().filter(|format| format.support() == Support::Listed) {
        let bytes = vec![0; format.block_bytes()];
        let mut values = vec![0.0; format.block_len()];
        assert!(matches!(format.dequantize(&bytes, &mut values), Err(Error::UnsupportedFormat { .. })));
        assert!(matches!(format.dot(&bytes, &values), Err(Error::UnsupportedFormat { .. })));
    }
}

proptest! {
    #[test]
    fn any_bytes_unpack_to_what_they_dequantise_to(bytes in prop::array::uniform32(any::<u8>()), seed: u8) {
        for format in readable() {
            // Blocks of up to 256 bytes from 32: shifted, so that no two parts are alike.
            let bytes: Vec<u8> = (0..format.block_bytes())
                .map(|i| bytes[i % 32].rotate_left((i / 32) as u32).wrapping_add(seed.wrapping_mul(i as u8)))
                .collect();
            let mut values = vec![0.0; format.block_len()];
            format.dequantize(&bytes, &mut values).unwrap();
            let Some((group, has_offset, (low, high))) = format.visit(Groups) else { continue };
            let mut q = vec![0; format.block_len()];
            let (mut scales, mut offsets) = (vec![0.0; q.len() / group], vec![0.0; q.len() / group]);
            format.unpack_block(&bytes, &mut q, &mut scales, &mut offsets).unwrap();
            for (i, (&q, &value)) in q.iter().zip(&values).enumerate() {
                prop_assert!((low..=high).contains(&q), "{format}: {q}");
                let mut expected = scales[i / group] * f32::from(q);
                if has_offset {
                    expected += offsets[i / group];
                }
                prop_assert!(same(value, expected), "{format}, element {i}: {value:e}, not {expected:e}");
            }
        }
    }

    #[test]
    fn dot_is_the_sum_of_products(seed: u64, blocks in 1_usize..4) {
        for format in readable() {
            // Small bytes: every half is a small positive number, no NaN, no overflow.
            let bytes: Vec<u8> = (0..blocks * format.block_bytes())
                .map(|i| (seed.rotate_left(i as u32 * 7) & 0x3f) as u8)
                .collect();
            let mut values = vec![0.0; blocks * format.block_len()];
            format.dequantize(&bytes, &mut values).unwrap();
            let x: Vec<f32> = (0..values.len()).map(|i| (i % 17) as f32 - 8.0).collect();
            let terms = values.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            let expected: f64 = terms.clone().sum();
            let size: f64 = terms.map(f64::abs).sum();
            let dot = format.dot(&bytes, &x).unwrap();
            // One rounding to f32, and f64 sums in another order.
            prop_assert!((f64::from(dot) - expected).abs() <= size * 1e-7, "{format}: {dot}, not {expected}");
        }
    }
}
