//! Keys and values as the cache stores them, widened sixteen elements at a time.

use super::simd::{LANES, Simd};
use crate::{KV_GROUP, KvFormat};

/// A format of keys or values.
pub trait Stored {
    /// A stored vector.
    type Vector<'a>: Copy;

    /// The vector of `dim` elements that `bytes` hold.
    fn vector(bytes: &[u8], dim: usize) -> Self::Vector<'_>;

    /// Widens elements `16 * i` and the following.
    ///
    /// # Panics
    /// When the vector has not sixteen of them.
    fn load<S: Simd>(x: Self::Vector<'_>, i: usize) -> S::F32;

    /// Widens what is left after the last sixteen; zeros follow.
    fn load_rest<S: Simd>(x: Self::Vector<'_>) -> S::F32;
}

/// Elements of `N / 16` bytes each, and what is left.
pub type Sixteens<'a, const N: usize> = (&'a [[u8; N]], &'a [u8]);

/// Fewer than sixteen elements, zeros behind them.
#[inline(always)]
fn padded<const N: usize>(rest: &[u8]) -> [u8; N] {
    let mut last = [0; N];
    last[..rest.len()].copy_from_slice(rest);
    last
}

/// Implements [`Stored`] for elements that stand for themselves.
macro_rules! stored {
    ($($(#[$doc:meta])* $name:ident, $bytes:expr, |$x:ident| $load:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;

        impl Stored for $name {
            type Vector<'a> = Sixteens<'a, { $bytes * LANES }>;

            #[inline(always)]
            fn vector(bytes: &[u8], _: usize) -> Self::Vector<'_> {
                bytes.as_chunks()
            }

            #[inline(always)]
            fn load<S: Simd>(x: Self::Vector<'_>, i: usize) -> S::F32 {
                let $x = &x.0[i];
                $load
            }

            #[inline(always)]
            fn load_rest<S: Simd>(x: Self::Vector<'_>) -> S::F32 {
                let $x = &padded::<{ $bytes * LANES }>(x.1);
                $load
            }
        }
    )*};
}

stored! {
    /// [`KvFormat::F32`].
    F32, 4, |x| S::load(&bytemuck::pod_read_unaligned(x));
    /// [`KvFormat::F16`].
    F16, 2, |x| S::load_f16(x);
    /// [`KvFormat::BF16`].
    Bf16, 2, |x| S::load_bf16(x);
    /// [`KvFormat::Fp8`].
    Fp8, 1, |x| S::load_e4m3(x);
}

/// [`KvFormat::Q8_0`].
pub struct Q8_0;

impl Stored for Q8_0 {
    /// Elements, and their scales.
    type Vector<'a> = (Sixteens<'a, LANES>, &'a [[u8; 2]]);

    #[inline(always)]
    fn vector(bytes: &[u8], dim: usize) -> Self::Vector<'_> {
        let (bytes, scales) = bytes.split_at(dim);
        (bytes.as_chunks(), scales.as_chunks().0)
    }

    #[inline(always)]
    fn load<S: Simd>(x: Self::Vector<'_>, i: usize) -> S::F32 {
        let (bytes, scales) = x;
        scaled::<S>(&bytes.0[i], scales[i * LANES / KV_GROUP])
    }

    #[inline(always)]
    fn load_rest<S: Simd>(x: Self::Vector<'_>) -> S::F32 {
        let (bytes, scales) = x;
        scaled::<S>(&padded::<LANES>(bytes.1), scales[bytes.0.len() * LANES / KV_GROUP])
    }
}

/// Bytes times a half.
#[inline(always)]
fn scaled<S: Simd>(bytes: &[u8; LANES], scale: [u8; 2]) -> S::F32 {
    let scale = S::from_f16(S::splat_u32(u32::from(u16::from_le_bytes(scale))));
    S::mul(S::load_i8(bytes), scale)
}

/// Widens vectors of `dim` elements that follow each other in `bytes`; sixteen
/// elements, zero-padded, are one of `out`: those from `16 * c` on of vector `i`
/// are `out[c * stride + i * step]`.
#[inline(always)]
pub fn widen<S: Simd>(
    format: KvFormat,
    bytes: &[u8],
    dim: usize,
    [stride, step]: [usize; 2],
    out: &mut [[f32; LANES]],
) {
    for (i, bytes) in bytes.chunks_exact(format.bytes(dim)).enumerate() {
        let out = &mut out[i * step..];
        match format {
            KvFormat::F32 => widen_vector::<S, F32>(bytes, dim, stride, out),
            KvFormat::F16 => widen_vector::<S, F16>(bytes, dim, stride, out),
            KvFormat::BF16 => widen_vector::<S, Bf16>(bytes, dim, stride, out),
            KvFormat::Q8_0 => widen_vector::<S, Q8_0>(bytes, dim, stride, out),
            KvFormat::Fp8 => widen_vector::<S, Fp8>(bytes, dim, stride, out),
        }
    }
}

#[inline(always)]
fn widen_vector<S: Simd, K: Stored>(bytes: &[u8], dim: usize, stride: usize, out: &mut [[f32; LANES]]) {
    let (x, whole) = (K::vector(bytes, dim), dim / LANES);
    for c in 0..whole {
        S::store(K::load::<S>(x, c), &mut out[c * stride]);
    }
    if !dim.is_multiple_of(LANES) {
        S::store(K::load_rest::<S>(x), &mut out[whole * stride]);
    }
}
