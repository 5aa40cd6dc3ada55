//! Floats of any width to f32: keys and values.

use super::simd::{LANES, Simd};
use crate::KvFormat;

/// Widens vectors that follow each other in `bytes`; sixteen elements, zero-padded,
/// are one of `out`: those from `16 * c` on of vector `i` are `out[c * stride + i]`.
#[inline(always)]
pub fn widen<S: Simd>(format: KvFormat, bytes: &[u8], dim: usize, stride: usize, out: &mut [[f32; LANES]]) {
    for (i, bytes) in bytes.chunks_exact(format.bytes(dim)).enumerate() {
        let out = &mut out[i..];
        match format {
            KvFormat::F32 => widen_vector::<64>(bytes, stride, out, |x, out| {
                for (out, x) in out.iter_mut().zip(x.as_chunks::<4>().0) {
                    *out = f32::from_le_bytes(*x);
                }
            }),
            KvFormat::F16 => widen_vector::<32>(bytes, stride, out, |x, out| S::store(S::load_f16(x), out)),
            KvFormat::BF16 => widen_vector::<32>(bytes, stride, out, |x, out| S::store(S::load_bf16(x), out)),
        }
    }
}

/// Widens sixteen elements, `N` bytes, at a time.
#[inline(always)]
fn widen_vector<const N: usize>(
    bytes: &[u8],
    stride: usize,
    out: &mut [[f32; LANES]],
    widen: impl Fn(&[u8; N], &mut [f32; LANES]),
) {
    let (whole, rest) = bytes.as_chunks::<N>();
    for (c, x) in whole.iter().enumerate() {
        widen(x, &mut out[c * stride]);
    }
    if !rest.is_empty() {
        let mut last = [0; N];
        last[..rest.len()].copy_from_slice(rest);
        widen(&last, &mut out[whole.len() * stride]);
    }
}
