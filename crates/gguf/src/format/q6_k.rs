//! `Q6_K`: sixteen groups of 16, 6 bits an element, 8-bit scales.

use super::Format;
use super::block::{Block, Half, Quantize, block};
use super::fit::{self, Integers};
use super::superblock;

block! {
    /// `d * s * (q - 32)`, `q` of 6 bits.
    Q6_K {
        /// Low four bits, two elements a byte: 128 elements share 64 bytes,
        /// halves 64 apart.
        ql: [u8; 128],
        /// Upper two bits, four elements a byte: 128 elements share 32 bytes,
        /// each quarter of 32 elements in its two bits.
        qh: [u8; 64],
        /// A group's scale.
        scales: [i8; 16],
        /// Scale of the scales.
        d: Half,
    }
}

impl Block for Q6_K {
    const FORMAT: Format = Format::Q6_K;
    const GROUP: usize = 16;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-32, 31);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        let halves = self.ql.chunks_exact(64).zip(self.qh.chunks_exact(32));
        for ((ql, qh), q) in halves.zip(q[..256].chunks_exact_mut(128)) {
            for (quarter, q) in q.chunks_exact_mut(32).enumerate() {
                let ql = &ql[quarter % 2 * 32..][..32];
                for ((q, low), high) in q.iter_mut().zip(ql).zip(qh) {
                    let low = low >> (quarter / 2 * 4) & 15;
                    let high = high >> (2 * quarter) & 3;
                    *q = (low | high << 4) as i8 - 32;
                }
            }
        }
        let d = self.d.to_f32();
        for (scale, &s) in scales[..16].iter_mut().zip(&self.scales) {
            *scale = d * f32::from(s);
        }
    }
}

impl Quantize for Q6_K {
    fn quantize(x: &[f32]) -> Self {
        let fit = superblock::scaled::<Integers<-32, 31>, Integers<-128, 127>, 16, 16>(&fit::finite(x));
        let q = fit.q.map(|q| (q + 32) as u8);
        let ql = std::array::from_fn(|i| {
            let at = i / 64 * 128 + i % 64;
            q[at] & 15 | q[at + 64] << 4
        });
        let qh = std::array::from_fn(|i| {
            let at = i / 32 * 128 + i % 32;
            (0..4).fold(0, |bits, j| bits | (q[at + 32 * j] >> 4) << (2 * j))
        });
        Self { ql, qh, scales: fit.s, d: fit.d }
    }
}
