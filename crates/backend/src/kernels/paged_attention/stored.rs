//! Elements of keys and values as the cache stores them, sixteen at a time.

use crate::cpu::simd::{LANES, Simd};

/// A format of keys or values.
pub(super) trait Stored {
    /// Sixteen elements.
    type Sixteen;

    /// A vector's elements in sixteens, and what is left.
    fn sixteens(bytes: &[u8]) -> (&[Self::Sixteen], &[u8]);

    /// Widens sixteen elements.
    fn load<S: Simd>(x: &Self::Sixteen) -> S::F32;

    /// Widens fewer than sixteen elements; zeros follow.
    #[inline(always)]
    fn load_rest<S: Simd>(rest: &[u8]) -> S::F32 {
        let mut last = [0; 4 * LANES];
        last[..rest.len()].copy_from_slice(rest);
        Self::load::<S>(&Self::sixteens(&last).0[0])
    }
}

/// 32-bit floats.
pub(super) struct F32;
/// IEEE halves.
pub(super) struct F16;
/// bfloats.
pub(super) struct Bf16;

impl Stored for F32 {
    type Sixteen = [u8; 4 * LANES];

    #[inline(always)]
    fn sixteens(bytes: &[u8]) -> (&[Self::Sixteen], &[u8]) {
        bytes.as_chunks()
    }

    #[inline(always)]
    fn load<S: Simd>(x: &Self::Sixteen) -> S::F32 {
        S::load(&bytemuck::pod_read_unaligned(x))
    }
}

impl Stored for F16 {
    type Sixteen = [u8; 2 * LANES];

    #[inline(always)]
    fn sixteens(bytes: &[u8]) -> (&[Self::Sixteen], &[u8]) {
        bytes.as_chunks()
    }

    #[inline(always)]
    fn load<S: Simd>(x: &Self::Sixteen) -> S::F32 {
        S::load_f16(x)
    }
}

impl Stored for Bf16 {
    type Sixteen = [u8; 2 * LANES];

    #[inline(always)]
    fn sixteens(bytes: &[u8]) -> (&[Self::Sixteen], &[u8]) {
        bytes.as_chunks()
    }

    #[inline(always)]
    fn load<S: Simd>(x: &Self::Sixteen) -> S::F32 {
        S::load_bf16(x)
    }
}
