//! The formats of 32 elements with one scale: `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`,
//! `Q8_0`.
//!
//! Four-bit parts lie in 16 bytes, element `i` in the low half of byte `i` and
//! element `i + 16` in the high half; fifth bits lie in four bytes, element
//! `i` in bit `i`.

use super::Format;
use super::block::{Block, Half, Quantize, block};
use super::fit::{self, Integers, Levels};

block! {
    /// `d * (q - 8)`, `q` of 4 bits.
    Q4_0 {
        /// Scale.
        d: Half,
        /// Elements, two a byte.
        qs: [u8; 16],
    }
}

block! {
    /// `d * q + m`, `q` of 4 bits.
    Q4_1 {
        /// Scale.
        d: Half,
        /// Offset.
        m: Half,
        /// Elements, two a byte.
        qs: [u8; 16],
    }
}

block! {
    /// `d * (q - 16)`, `q` of 5 bits.
    Q5_0 {
        /// Scale.
        d: Half,
        /// Fifth bits.
        qh: [u8; 4],
        /// Low four bits, two elements a byte.
        qs: [u8; 16],
    }
}

block! {
    /// `d * q + m`, `q` of 5 bits.
    Q5_1 {
        /// Scale.
        d: Half,
        /// Offset.
        m: Half,
        /// Fifth bits.
        qh: [u8; 4],
        /// Low four bits, two elements a byte.
        qs: [u8; 16],
    }
}

block! {
    /// `d * q`, `q` of 8 bits.
    Q8_0 {
        /// Scale.
        d: Half,
        /// Elements.
        qs: [i8; 32],
    }
}

/// Each byte shifted right by `shift` and masked with `mask`, which has no more
/// than the bits that stay; eight bytes at a time, because shifting single
/// bytes is what vector units cannot do.
#[inline(always)]
pub(super) fn bits(shift: usize, mask: u8, bytes: &[u8], q: &mut [i8]) {
    let mask = u64::from_le_bytes([mask; 8]);
    for (q, bytes) in q.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *q = (u64::from_le_bytes(*bytes) >> shift & mask).to_le_bytes().map(|byte| byte as i8);
    }
}

/// The 32 four-bit elements of `qs`.
#[inline(always)]
pub(super) fn unpack_nibbles(qs: &[u8; 16], q: &mut [i8]) {
    bits(0, 15, qs, &mut q[..16]);
    bits(4, 15, qs, &mut q[16..32]);
}

/// Adds the 32 fifth bits of `qh` to `q`.
#[inline(always)]
fn add_fifth_bits(qh: [u8; 4], q: &mut [i8]) {
    const EACH: u64 = 0x0101_0101_0101_0101;
    for (q, byte) in q.as_chunks_mut::<8>().0.iter_mut().zip(qh) {
        // Bit i of the byte alone in byte i; then in its top bit, wherever it was.
        let alone = (u64::from(byte) * EACH) & 0x8040_2010_0804_0201;
        let top = (alone + 0x7f * EACH) & (0x80 * EACH);
        let fifths = (top >> 3).to_le_bytes();
        for (q, fifth) in q.iter_mut().zip(fifths) {
            *q |= fifth as i8;
        }
    }
}

/// Moves the 32 elements of `q` down by `by`.
#[inline(always)]
fn centre(q: &mut [i8], by: i8) {
    for q in &mut q[..32] {
        *q -= by;
    }
}

/// The 32 elements of `q`, 0 to 15 each, two a byte.
pub(super) fn pack_nibbles(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| q[i] | q[i + 16] << 4)
}

/// The low four bits and the fifth bits of `q`, 0 to 31 each.
fn pack_fives(q: &[u8; 32]) -> ([u8; 16], [u8; 4]) {
    let high = q.iter().rev().fold(0_u32, |bits, q| bits << 1 | u32::from(q >> 4));
    (pack_nibbles(&q.map(|q| q & 15)), high.to_le_bytes())
}

/// Scale and elements of a format without offset; elements start from 0.
fn fit_scale<const LOW: i32, const HIGH: i32>(x: &[f32]) -> (Half, [u8; 32]) {
    let x = fit::finite::<32>(x);
    let d = Half::saturating(fit::scale::<Integers<LOW, HIGH>, 32>(&x));
    let inverse = fit::inverse(d.to_f32());
    (d, x.map(|x| (Integers::<LOW, HIGH>::nearest(x * inverse) - LOW as f32) as u8))
}

/// Scale, offset and elements of a format with both.
fn fit_affine<const HIGH: i32>(x: &[f32]) -> (Half, Half, [u8; 32]) {
    let x = fit::finite::<32>(x);
    let fit = fit::affine::<HIGH, 32>(&x, f32::INFINITY);
    let (d, m) = (Half::saturating(fit.d), Half::saturating(fit.m));
    let (inverse, offset) = (fit::inverse(d.to_f32()), m.to_f32());
    (d, m, x.map(|x| Integers::<0, HIGH>::nearest((x - offset) * inverse) as u8))
}

impl Quantize for Q4_0 {
    fn quantize(x: &[f32]) -> Self {
        let (d, q) = fit_scale::<-8, 7>(x);
        Self { d, qs: pack_nibbles(&q) }
    }
}

impl Quantize for Q4_1 {
    fn quantize(x: &[f32]) -> Self {
        let (d, m, q) = fit_affine::<15>(x);
        Self { d, m, qs: pack_nibbles(&q) }
    }
}

impl Quantize for Q5_0 {
    fn quantize(x: &[f32]) -> Self {
        let (d, q) = fit_scale::<-16, 15>(x);
        let (qs, qh) = pack_fives(&q);
        Self { d, qh, qs }
    }
}

impl Quantize for Q5_1 {
    fn quantize(x: &[f32]) -> Self {
        let (d, m, q) = fit_affine::<31>(x);
        let (qs, qh) = pack_fives(&q);
        Self { d, m, qh, qs }
    }
}

impl Quantize for Q8_0 {
    fn quantize(x: &[f32]) -> Self {
        let x = fit::finite::<32>(x);
        // 255 levels lose so little that a search would gain nothing.
        let d = Half::saturating(fit::peak(&x).abs() / 127.0);
        let inverse = fit::inverse(d.to_f32());
        Self { d, qs: x.map(|x| Integers::<-127, 127>::nearest(x * inverse) as i8) }
    }
}

impl Block for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-8, 7);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        unpack_nibbles(&self.qs, q);
        centre(q, 8);
        scales[0] = self.d.to_f32();
    }
}

impl Block for Q4_1 {
    const FORMAT: Format = Format::Q4_1;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = true;
    const RANGE: (i8, i8) = (0, 15);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], offsets: &mut [f32]) {
        unpack_nibbles(&self.qs, q);
        scales[0] = self.d.to_f32();
        offsets[0] = self.m.to_f32();
    }
}

impl Block for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-16, 15);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        unpack_nibbles(&self.qs, q);
        add_fifth_bits(self.qh, q);
        centre(q, 16);
        scales[0] = self.d.to_f32();
    }
}

impl Block for Q5_1 {
    const FORMAT: Format = Format::Q5_1;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = true;
    const RANGE: (i8, i8) = (0, 31);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], offsets: &mut [f32]) {
        unpack_nibbles(&self.qs, q);
        add_fifth_bits(self.qh, q);
        scales[0] = self.d.to_f32();
        offsets[0] = self.m.to_f32();
    }
}

impl Block for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const GROUP: usize = 32;
    const HAS_OFFSET: bool = false;
    const RANGE: (i8, i8) = (-128, 127);

    #[inline(always)]
    fn unpack(&self, q: &mut [i8], scales: &mut [f32], _: &mut [f32]) {
        q[..32].copy_from_slice(&self.qs);
        scales[0] = self.d.to_f32();
    }
}
