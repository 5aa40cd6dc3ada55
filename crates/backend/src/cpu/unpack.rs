//! Panels: sixteen rows of a weight unpacked side by side, a lane each, so that
//! one vector instruction multiplies sixteen outputs' weights by one input.
//!
//! A block format becomes unsigned bytes, four columns a word, with a scale
//! (and offset) for each group of columns. [`unpack_any`] does that for every
//! format by [`Block::unpack`]; the formats that most models have take a short
//! cut that gives the same panel.

use std::mem::offset_of;

use gguf::Format;
use gguf::format::{Block, Q4_0, Q4_1, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0};

use super::simd::{Bias, Fields, InRows, LANES, Simd, Words};

/// What becomes of unpacked blocks: they are kept as a panel, or used at once.
pub trait Sink<S: Simd> {
    /// Takes words `at..` of a block: sixteen columns.
    fn columns(&mut self, at: usize, w: [S::U32; 4]);

    /// Takes the scale of group `group` of a block.
    fn scale(&mut self, group: usize, scale: S::F32);

    /// Takes its offset.
    fn offset(&mut self, group: usize, offset: S::F32);
}

/// Columns of [`Block::LEN`] elements of sixteen rows.
pub struct Groups<'a> {
    /// Four columns a word: `[LEN / 4]`.
    pub w: &'a mut [Words],
    /// `[GROUPS]`
    pub scales: &'a mut [[f32; LANES]],
    /// `[GROUPS]`, left alone where the format has none.
    pub offsets: &'a mut [[f32; LANES]],
}

impl<S: Simd> Sink<S> for Groups<'_> {
    #[inline(always)]
    fn columns(&mut self, at: usize, w: [S::U32; 4]) {
        for (out, w) in self.w[at..at + 4].iter_mut().zip(w) {
            S::store_u32(w, out);
        }
    }

    #[inline(always)]
    fn scale(&mut self, group: usize, scale: S::F32) {
        S::store(scale, &mut self.scales[group]);
    }

    #[inline(always)]
    fn offset(&mut self, group: usize, offset: S::F32) {
        S::store(offset, &mut self.offsets[group]);
    }
}

/// How the bytes of a format's panels stand for its integers. Formats without
/// offset are signed, those with one are not.
pub const fn bias<B: Block>() -> Bias {
    let (low, high) = B::RANGE;
    assert!((low < 0) != B::HAS_OFFSET, "a format has signed elements or an offset");
    let mut shift = 0;
    if low < 0 {
        while (1 << shift) < -(low as i32) {
            shift += 1;
        }
        return Bias { shift, largest: (high as i32 + (1 << shift)) as u8 };
    }
    Bias { shift, largest: high as u8 }
}

/// Whether [`unpack`] has code of its own for a format, so that its blocks may
/// also be interleaved.
pub const fn has_short_cut(format: Format) -> bool {
    use Format::{Q4_0, Q4_1, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0};
    matches!(format, Q4_0 | Q4_1 | Q5_0 | Q8_0 | Q4_K | Q5_K | Q6_K)
}

/// Unpacks the blocks of sixteen rows.
///
/// # Safety
/// `from` are blocks of `B`, for which there is a [short cut](has_short_cut).
#[inline(always)]
pub unsafe fn unpack<B: Block, S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise.
    unsafe {
        match B::FORMAT {
            Format::Q4_0 => q4_0(from, out),
            Format::Q4_1 => q4_1(from, out),
            Format::Q5_0 => q5_0(from, out),
            Format::Q8_0 => q8_0(from, out),
            Format::Q4_K => q4_k(from, out),
            Format::Q5_K => q5_k(from, out),
            Format::Q6_K => q6_k(from, out),
            _ => unreachable!("the caller asked for a short cut"),
        }
    }
}

/// As [`unpack`], row by row.
///
/// # Safety
/// `from` are blocks of `B`.
#[inline(always)]
pub unsafe fn unpack_any<B: Block>(from: InRows<'_>, out: &mut Groups<'_>) {
    let mut q = [0; gguf::format::block::MAX_LEN];
    let mut scales = [0.0; gguf::format::block::MAX_GROUPS];
    let mut offsets = scales;
    for r in 0..LANES {
        // SAFETY: the caller's promise; blocks have alignment 1 and no invalid bits.
        let block = unsafe { &*from.rows.at(r, from.start).cast::<B>() };
        block.unpack(&mut q, &mut scales, &mut offsets);
        let bias = if B::HAS_OFFSET { 0 } else { 1_u8.wrapping_shl(bias::<B>().shift) };
        for (w, q) in out.w.iter_mut().zip(q[..B::LEN].as_chunks::<4>().0) {
            w[r] = u32::from_le_bytes(q.map(|q| (q as u8).wrapping_add(bias)));
        }
        for (out, scale) in out.scales.iter_mut().zip(&scales[..B::GROUPS]) {
            out[r] = *scale;
        }
        if B::HAS_OFFSET {
            for (out, offset) in out.offsets.iter_mut().zip(&offsets[..B::GROUPS]) {
                out[r] = *offset;
            }
        }
    }
}

const NIBBLES: u32 = 0x0f0f_0f0f;

/// The low four bits of each byte.
#[inline(always)]
fn low<S: Simd>(x: [S::U32; 4]) -> [S::U32; 4] {
    let mask = S::splat_u32(NIBBLES);
    [S::and(x[0], mask), S::and(x[1], mask), S::and(x[2], mask), S::and(x[3], mask)]
}

/// The high four bits of each byte.
#[inline(always)]
fn high<S: Simd>(x: [S::U32; 4]) -> [S::U32; 4] {
    low::<S>([S::shr::<4>(x[0]), S::shr::<4>(x[1]), S::shr::<4>(x[2]), S::shr::<4>(x[3])])
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q4_0<S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise.
    let (d, qs) = unsafe { (from.half(0), from.columns(offset_of!(Q4_0, qs))) };
    out.columns(0, low::<S>(qs));
    out.columns(4, high::<S>(qs));
    out.scale(0, d);
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q4_1<S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise.
    let (dm, qs) = unsafe { (from.word(0), from.columns(offset_of!(Q4_1, qs))) };
    out.columns(0, low::<S>(qs));
    out.columns(4, high::<S>(qs));
    out.scale(0, S::from_f16(dm));
    out.offset(0, S::from_f16(S::shr::<16>(dm)));
}

/// Bit `4 * i + j` of each word to bit 4 of its byte `j`, for `i` = `N / 4`.
#[inline(always)]
fn fifth<S: Simd, const N: u32>(bits: S::U32) -> S::U32 {
    // The product has bit j of the four at 7 j, and so at 8 j after other bits that are masked.
    let four = S::and(S::shr::<N>(bits), S::splat_u32(15));
    S::shl::<4>(S::and(S::mul_u32(four, S::splat_u32(0x0020_4081)), S::splat_u32(0x0101_0101)))
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q5_0<S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise.
    let (d, qh, qs) =
        unsafe { (from.half(0), from.word(offset_of!(Q5_0, qh)), from.columns(offset_of!(Q5_0, qs))) };
    let (l, h) = (low::<S>(qs), high::<S>(qs));
    let l = [
        S::or(l[0], fifth::<S, 0>(qh)),
        S::or(l[1], fifth::<S, 4>(qh)),
        S::or(l[2], fifth::<S, 8>(qh)),
        S::or(l[3], fifth::<S, 12>(qh)),
    ];
    let h = [
        S::or(h[0], fifth::<S, 16>(qh)),
        S::or(h[1], fifth::<S, 20>(qh)),
        S::or(h[2], fifth::<S, 24>(qh)),
        S::or(h[3], fifth::<S, 28>(qh)),
    ];
    out.columns(0, l);
    out.columns(4, h);
    out.scale(0, d);
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q8_0<S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    let flip = S::splat_u32(0x8080_8080);
    // SAFETY: the caller's promise.
    let d = unsafe { from.half(0) };
    for half in 0..2 {
        // SAFETY: the caller's promise.
        let qs = unsafe { from.columns(offset_of!(Q8_0, qs) + 16 * half) };
        let qs = [S::xor(qs[0], flip), S::xor(qs[1], flip), S::xor(qs[2], flip), S::xor(qs[3], flip)];
        out.columns(4 * half, qs);
    }
    out.scale(0, d);
}

/// Byte `N / 8` of each word times `factor`.
#[inline(always)]
fn byte_times<S: Simd, const N: u32>(bytes: S::U32, factor: S::F32) -> S::F32 {
    S::mul(factor, S::from_i32(S::and(S::shr::<N>(bytes), S::splat_u32(0xff))))
}

/// The four bytes of each word times `factor`.
#[inline(always)]
fn times<S: Simd>(bytes: S::U32, factor: S::F32) -> [S::F32; 4] {
    [
        byte_times::<S, 0>(bytes, factor),
        byte_times::<S, 8>(bytes, factor),
        byte_times::<S, 16>(bytes, factor),
        byte_times::<S, 24>(bytes, factor),
    ]
}

/// Gives four groups their scales and offsets.
#[inline(always)]
fn put_four<S: Simd>(out: &mut impl Sink<S>, first: usize, scales: [S::F32; 4], offsets: [S::F32; 4]) {
    for (i, (scale, offset)) in scales.into_iter().zip(offsets).enumerate() {
        out.scale(first + i, scale);
        out.offset(first + i, offset);
    }
}

/// The scales and minima of `Q4_K` and `Q5_K`, which begin alike
/// (`gguf::format::q4_k::unpack_scales` says how they are packed).
///
/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn k_scales<S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise; twenty bytes from `at` on are in the block.
    let (dm, packed) = unsafe { (from.word(0), from.columns(offset_of!(Q4_K, scales))) };
    let [scales, minima, upper, _] = packed;
    let d = S::from_f16(dm);
    // Minima are subtracted.
    let minus_dmin = S::mul(S::from_f16(S::shr::<16>(dm)), S::splat(-1.0));
    let (six, four, two) = (S::splat_u32(0x3f3f_3f3f), S::splat_u32(NIBBLES), S::splat_u32(0x3030_3030));
    put_four(out, 0, times::<S>(S::and(scales, six), d), times::<S>(S::and(minima, six), minus_dmin));
    let scales = S::or(S::and(upper, four), S::and(S::shr::<2>(scales), two));
    let minima = S::or(S::and(S::shr::<4>(upper), four), S::and(S::shr::<2>(minima), two));
    put_four(out, 4, times::<S>(scales, d), times::<S>(minima, minus_dmin));
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q4_k<S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise.
    unsafe { k_scales::<S>(from, out) };
    // SAFETY: as above. (Written out, so that a sink's groups are constants.)
    unsafe {
        q4_k_pair::<S, 0>(from, out);
        q4_k_pair::<S, 1>(from, out);
        q4_k_pair::<S, 2>(from, out);
        q4_k_pair::<S, 3>(from, out);
    }
}

/// Groups `2 * PAIR` and the next: 64 elements in 32 bytes, 32 in their low
/// halves and 32 in their high ones.
///
/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q4_k_pair<S: Simd, const PAIR: usize>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise.
    let (a, b) = unsafe {
        let qs = offset_of!(Q4_K, qs) + 32 * PAIR;
        (from.columns(qs), from.columns(qs + 16))
    };
    out.columns(16 * PAIR, low::<S>(a));
    out.columns(16 * PAIR + 4, low::<S>(b));
    out.columns(16 * PAIR + 8, high::<S>(a));
    out.columns(16 * PAIR + 12, high::<S>(b));
}

/// Bit `N` of each byte to its bit 4.
#[inline(always)]
fn bit_to_4<S: Simd, const N: u32>(x: S::U32) -> S::U32 {
    S::shl::<4>(S::and(S::shr::<N>(x), S::splat_u32(0x0101_0101)))
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q5_k<S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise.
    unsafe {
        k_scales::<S>(from, out);
        q5_k_pair::<S, 0, 1>(from, out);
        q5_k_pair::<S, 2, 3>(from, out);
        q5_k_pair::<S, 4, 5>(from, out);
        q5_k_pair::<S, 6, 7>(from, out);
    }
}

/// Groups `A` and `B = A + 1`, which share 32 bytes.
///
/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q5_k_pair<S: Simd, const A: u32, const B: u32>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    for half in 0..2 {
        // SAFETY: the caller's promise.
        let (qs, qh) = unsafe {
            let qs = from.columns(offset_of!(Q5_K, qs) + 16 * (A as usize + half));
            (qs, from.columns(offset_of!(Q5_K, qh) + 16 * half))
        };
        let (mut l, mut h) = (low::<S>(qs), high::<S>(qs));
        for i in 0..4 {
            l[i] = S::or(l[i], bit_to_4::<S, A>(qh[i]));
            h[i] = S::or(h[i], bit_to_4::<S, B>(qh[i]));
        }
        out.columns(8 * A as usize + 4 * half, l);
        out.columns(8 * B as usize + 4 * half, h);
    }
}

/// Bits `N` and `N + 1` of each byte to its bits 4 and 5.
#[inline(always)]
fn two_bits_to_4<S: Simd, const N: u32>(x: [S::U32; 4]) -> [S::U32; 4] {
    let mask = S::splat_u32(0x0303_0303);
    let mut out = x;
    for out in &mut out {
        *out = S::shl::<4>(S::and(S::shr::<N>(*out), mask));
    }
    out
}

/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q6_k<S: Simd>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    // SAFETY: the caller's promise. (Written out, so that a sink's groups are constants.)
    unsafe {
        q6_k_part::<S, 0>(from, out);
        q6_k_part::<S, 1>(from, out);
        q6_k_part::<S, 2>(from, out);
        q6_k_part::<S, 3>(from, out);
    }
    // SAFETY: the caller's promise.
    let (d, scales) = unsafe { (from.half(offset_of!(Q6_K, d)), from.columns(offset_of!(Q6_K, scales))) };
    for (i, s) in scales.into_iter().enumerate() {
        out.scale(4 * i, S::mul(d, S::from_i32(S::sar::<24>(S::shl::<24>(s)))));
        out.scale(4 * i + 1, S::mul(d, S::from_i32(S::sar::<24>(S::shl::<16>(s)))));
        out.scale(4 * i + 2, S::mul(d, S::from_i32(S::sar::<24>(S::shl::<8>(s)))));
        out.scale(4 * i + 3, S::mul(d, S::from_i32(S::sar::<24>(s))));
    }
}

/// 128 elements have 64 bytes of low bits and 32 of high ones; a part is sixteen
/// of each 32 of them.
///
/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn q6_k_part<S: Simd, const PART: usize>(from: impl Fields<S>, out: &mut impl Sink<S>) {
    let (half, sixteen) = (PART / 2, PART % 2);
    // SAFETY: the caller's promise.
    let (a, b, qh) = unsafe {
        let ql = offset_of!(Q6_K, ql) + 64 * half + 16 * sixteen;
        let qh = offset_of!(Q6_K, qh) + 32 * half + 16 * sixteen;
        (from.columns(ql), from.columns(ql + 32), from.columns(qh))
    };
    let to = 32 * half + 4 * sixteen;
    out.columns(to, both::<S>(low::<S>(a), two_bits_to_4::<S, 0>(qh)));
    out.columns(to + 8, both::<S>(low::<S>(b), two_bits_to_4::<S, 2>(qh)));
    out.columns(to + 16, both::<S>(high::<S>(a), two_bits_to_4::<S, 4>(qh)));
    out.columns(to + 24, both::<S>(high::<S>(b), two_bits_to_4::<S, 6>(qh)));
}

/// The bits of either.
#[inline(always)]
fn both<S: Simd>(a: [S::U32; 4], b: [S::U32; 4]) -> [S::U32; 4] {
    [S::or(a[0], b[0]), S::or(a[1], b[1]), S::or(a[2], b[2]), S::or(a[3], b[3])]
}

#[cfg(test)]
mod tests;
