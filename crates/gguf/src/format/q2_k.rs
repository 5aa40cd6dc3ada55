//! `Q2_K`: sixteen groups of 16, 2 bits an element, 4-bit scales and minima.

use super::Format;
use super::block::{Block, Half, Quantize, block};
use super::legacy::bits;
use super::{fit, superblock};

block! {
    /// `d * s * q - dmin * m`, `q` of 2 bits.
    Q2_K {
        /// A byte a group: scale in the low half, minimum in the high half.
        scales: [u8; 16],
        /// Elements, four a byte: 128 elements share 32 bytes, each quarter of
        /// 32 elements in its two bits.
        qs: [u8; 64],
        /// Scale of the scales.
        d: Half,
        /// Scale of the minima.
        dmin: Half,
    }
}

/// The 256 two-bit elements of `qs`; `Q3_K` keeps its low bits this way too.
#[inline(always)]
pub(super) fn unpack_pairs(qs: &[u8; 64], q: &mut [i8]) {
    for (qs, q) in qs.chunks_exact(32).zip(q.chunks_exact_mut(128)) {
        let (low, high) = q.split_at_mut(64);
        bits(0, 3, qs, &mut low[..32]);
        bits(2, 3, qs, &mut low[32..]);
        bits(4, 3, qs, &mut high[..32]);
        bits(6, 3, qs, &mut high[32..]);
    }
}

impl Block for Q2_K {
    const FORMAT: Format = Format::Q2_K;
    const GROUP: usize = 16;
    const HAS_OFFSET: bool = true;
    const RANGE: (i8, i8) = (0, 3);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], offsets: &mut [f32]) {
        unpack_pairs(&self.qs, &mut q[..256]);
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for ((byte, scale), offset) in self.scales.iter().zip(&mut scales[..16]).zip(&mut offsets[..16]) {
            *scale = d * f32::from(byte & 15);
            *offset = -(dmin * f32::from(byte >> 4));
        }
    }
}

/// The 256 elements of `q`, 0 to 3 each, four a byte.
pub(super) fn pack_pairs(q: &[u8; 256]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let at = i / 32 * 128 + i % 32;
        q[at] | q[at + 32] << 2 | q[at + 64] << 4 | q[at + 96] << 6
    })
}

impl Quantize for Q2_K {
    fn quantize(x: &[f32]) -> Self {
        let fit = superblock::offset::<3, 15, 16, 16>(&fit::finite(x));
        let scales = std::array::from_fn(|g| fit.s[g] | fit.m[g] << 4);
        Self { scales, qs: pack_pairs(&fit.q), d: fit.d, dmin: fit.dmin }
    }
}
