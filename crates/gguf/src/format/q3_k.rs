//! `Q3_K`: sixteen groups of 16, 3 bits an element, 6-bit scales.

use super::Format;
use super::block::{Block, Half, Quantize, block};
use super::fit::{self, Integers};
use super::legacy::bits;
use super::q2_k::{pack_pairs, unpack_pairs};
use super::superblock;

block! {
    /// `d * (s - 32) * (q - 4)`, `q` of 3 bits.
    Q3_K {
        /// Third bits: element `32 * j + i` in bit `j` of byte `i`.
        hmask: [u8; 32],
        /// Low two bits, as in `Q2_K`.
        qs: [u8; 64],
        /// 6-bit scales: the low halves of bytes 0–7 are the low four bits of
        /// groups 0–7, the high halves those of 8–15; byte `8 + i` has the
        /// upper two bits of groups `i`, `4 + i`, `8 + i` and `12 + i`.
        scales: [u8; 12],
        /// Scale of the scales.
        d: Half,
    }
}

impl Q3_K {
    /// The scale of group `g`, from −32 to 31.
    #[inline(always)]
    fn scale(&self, g: usize) -> i8 {
        let low = self.scales[g % 8] >> (g / 8 * 4) & 15;
        let high = self.scales[8 + g % 4] >> (g / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    }
}

impl Block for Q3_K {
    const FORMAT: Format = Format::Q3_K;
    const GROUP: usize = 16;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-4, 3);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        let q = &mut q[..256];
        unpack_pairs(&self.qs, q);
        for (j, q) in q.chunks_exact_mut(32).enumerate() {
            let mut third = [0; 32];
            bits(j, 1, &self.hmask, &mut third);
            for (q, third) in q.iter_mut().zip(third) {
                *q += (third << 2) - 4;
            }
        }
        let d = self.d.to_f32();
        for (g, scale) in scales[..16].iter_mut().enumerate() {
            *scale = d * f32::from(self.scale(g));
        }
    }
}

/// The inverse of [`Q3_K::scale`].
fn pack_scales(scales: &[i8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (g, scale) in scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        packed[g % 8] |= (scale & 15) << (g / 8 * 4);
        packed[8 + g % 4] |= scale >> 4 << (g / 4 * 2);
    }
    packed
}

impl Quantize for Q3_K {
    fn quantize(x: &[f32]) -> Self {
        let fit = superblock::scaled::<Integers<-4, 3>, Integers<-32, 31>, 16, 16>(&fit::finite(x));
        let q = fit.q.map(|q| (q + 4) as u8);
        let hmask = std::array::from_fn(|i| (0..8).fold(0, |bits, j| bits | (q[32 * j + i] >> 2) << j));
        Self { hmask, qs: pack_pairs(&q.map(|q| q & 3)), scales: pack_scales(&fit.s), d: fit.d }
    }
}
