//! `MXFP4`, the 4-bit float of the OCP Microscaling specification 1.0: 32
//! elements of e2m1 under one power of two (e8m0).

use super::Format;
use super::block::{Block, block};
use super::iq4::look_up;
use super::legacy::unpack_nibbles;

/// Twice what the 16 codes of e2m1 stand for, so that they are integers.
pub const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

block! {
    /// `2^(e - 127) * e2m1(q)`.
    MXFP4 {
        /// Exponent of the scale, biased by 127.
        e: u8,
        /// Elements, two a byte, halves 16 apart.
        qs: [u8; 16],
    }
}

/// `2^(e - 128)`: half of what the e8m0 number `e` stands for, to go with
/// [`E2M1_DOUBLED`].
#[inline(always)]
pub fn half_e8m0(e: u8) -> f32 {
    // The two smallest are subnormal.
    let bits = if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 };
    f32::from_bits(bits)
}

impl Block for MXFP4 {
    const FORMAT: Format = Format::MXFP4;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-12, 12);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        unpack_nibbles(&self.qs, q);
        look_up(&E2M1_DOUBLED, &mut q[..32]);
        scales[0] = half_e8m0(self.e);
    }
}
