//! `Q4_K` and `Q5_K`: eight groups of 32, 6-bit scales and minima.

use super::Format;
use super::block::{Block, Half, Multiples, Quantize, block};
use super::legacy::bits;
use super::{fit, superblock};

block! {
    /// `d * s * q - dmin * m`, `q` of 4 bits.
    Q4_K {
        /// Scale of the scales.
        d: Half,
        /// Scale of the minima.
        dmin: Half,
        /// Scales and minima, see [`unpack_scales`].
        scales: [u8; 12],
        /// Elements, two a byte: 64 elements share 32 bytes, halves 32 apart.
        qs: [u8; 128],
    }
}

block! {
    /// `d * s * q - dmin * m`, `q` of 5 bits.
    Q5_K {
        /// Scale of the scales.
        d: Half,
        /// Scale of the minima.
        dmin: Half,
        /// Scales and minima, see [`unpack_scales`].
        scales: [u8; 12],
        /// Fifth bits: element `32 * j + i` in bit `j` of byte `i`.
        qh: [u8; 32],
        /// Low four bits, as in `Q4_K`.
        qs: [u8; 128],
    }
}

/// The 6-bit scales and minima of eight groups. Bytes 0–3 hold the scales of
/// groups 0–3 in their low six bits, bytes 4–7 the minima of those; bytes 8–11
/// hold the low four bits of groups 4–7, scale low and minimum high, whose
/// upper two bits fill the tops of bytes 0–3 (scales) and 4–7 (minima).
#[inline(always)]
pub fn unpack_scales(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for i in 0..4 {
        let (scale, minimum, low) = (bytes[i], bytes[i + 4], bytes[i + 8]);
        scales[i] = scale & 63;
        minima[i] = minimum & 63;
        scales[i + 4] = low & 15 | scale >> 6 << 4;
        minima[i + 4] = low >> 4 | minimum >> 6 << 4;
    }
    (scales, minima)
}

/// The floats that the packed scales stand for.
#[inline(always)]
fn unpack_groups(d: Half, dmin: Half, packed: &[u8; 12], scales: &mut [f32], offsets: &mut [f32]) {
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let (s, m) = unpack_scales(packed);
    for ((scale, offset), (s, m)) in scales[..8].iter_mut().zip(&mut offsets[..8]).zip(s.into_iter().zip(m)) {
        *scale = d * f32::from(s);
        *offset = -(dmin * f32::from(m));
    }
}

/// The 256 four-bit elements of `qs`.
#[inline(always)]
fn unpack_nibbles(qs: &[u8; 128], q: &mut [i8]) {
    for (qs, q) in qs.chunks_exact(32).zip(q.chunks_exact_mut(64)) {
        let (low, high) = q.split_at_mut(32);
        bits(0, 15, qs, low);
        bits(4, 15, qs, high);
    }
}

impl Block for Q4_K {
    const FORMAT: Format = Format::Q4_K;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = true;
    const RANGE: (i8, i8) = (0, 15);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], offsets: &mut [f32]) {
        unpack_nibbles(&self.qs, &mut q[..256]);
        unpack_groups(self.d, self.dmin, &self.scales, scales, offsets);
    }

    #[inline(always)]
    fn multiples(&self) -> Option<Multiples> {
        let (scales, minima) = unpack_scales(&self.scales);
        Some(Multiples { scale: self.d, minimum: self.dmin, scales, minima })
    }
}

impl Block for Q5_K {
    const FORMAT: Format = Format::Q5_K;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = true;
    const RANGE: (i8, i8) = (0, 31);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], offsets: &mut [f32]) {
        let q = &mut q[..256];
        unpack_nibbles(&self.qs, q);
        for (j, q) in q.chunks_exact_mut(32).enumerate() {
            let mut fifth = [0; 32];
            bits(j, 1, &self.qh, &mut fifth);
            for (q, fifth) in q.iter_mut().zip(fifth) {
                *q |= fifth << 4;
            }
        }
        unpack_groups(self.d, self.dmin, &self.scales, scales, offsets);
    }
}

/// The inverse of [`unpack_scales`].
fn pack_scales(scales: &[u8; 8], minima: &[u8; 8]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for i in 0..4 {
        bytes[i] = scales[i] | scales[i + 4] >> 4 << 6;
        bytes[i + 4] = minima[i] | minima[i + 4] >> 4 << 6;
        bytes[i + 8] = scales[i + 4] & 15 | minima[i + 4] << 4;
    }
    bytes
}

/// The low four bits of the 256 elements of `q`, two a byte.
fn pack_nibbles(q: &[u8; 256]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let at = i / 32 * 64 + i % 32;
        q[at] & 15 | q[at + 32] << 4
    })
}

impl Quantize for Q4_K {
    fn quantize(x: &[f32]) -> Self {
        let fit = superblock::offset::<15, 63, 32, 8>(&fit::finite(x));
        Self { d: fit.d, dmin: fit.dmin, scales: pack_scales(&fit.s, &fit.m), qs: pack_nibbles(&fit.q) }
    }
}

impl Quantize for Q5_K {
    fn quantize(x: &[f32]) -> Self {
        let fit = superblock::offset::<31, 63, 32, 8>(&fit::finite(x));
        Self {
            d: fit.d,
            dmin: fit.dmin,
            scales: pack_scales(&fit.s, &fit.m),
            qh: std::array::from_fn(|i| (0..8).fold(0, |bits, j| bits | (fit.q[32 * j + i] >> 4) << j)),
            qs: pack_nibbles(&fit.q),
        }
    }
}
