//! Floats of any width to f32: keys, values and unquantised weights.

use super::simd::{LANES, Simd};
use crate::KvFormat;

/// Widens `n` vectors from number `at` on to f32, each zero-padded to whole vectors.
#[inline(always)]
pub fn widen<S: Simd>(format: KvFormat, bytes: &[u8], at: usize, n: usize, dim: usize, out: &mut [f32]) {
    let size = format.bytes(dim);
    let vectors = bytes[at * size..(at + n) * size].chunks_exact(size);
    for (bytes, out) in vectors.zip(out.chunks_exact_mut(dim.next_multiple_of(LANES))) {
        let out = out.as_chunks_mut::<LANES>().0;
        match format {
            KvFormat::F32 => widen_vector::<64>(bytes, out, |x, out| {
                for (out, x) in out.iter_mut().zip(x.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*x);
                }
            }),
            KvFormat::F16 => widen_vector::<32>(bytes, out, |x, out| S::store(S::load_f16(x), out)),
            KvFormat::BF16 => widen_vector::<32>(bytes, out, |x, out| S::store(S::load_bf16(x), out)),
        }
    }
}

/// Widens sixteen elements, `N` bytes, at a time.
#[inline(always)]
fn widen_vector<const N: usize>(
    bytes: &[u8],
    out: &mut [[f32; LANES]],
    widen: impl Fn(&[u8; N], &mut [f32; LANES]),
) {
    let (whole, rest) = bytes.as_chunks::<N>();
    for (x, out) in whole.iter().zip(out.iter_mut()) {
        widen(x, out);
    }
    if !rest.is_empty() {
        let mut last = [0; N];
        last[..rest.len()].copy_from_slice(rest);
        widen(&last, &mut out[whole.len()]);
    }
}
