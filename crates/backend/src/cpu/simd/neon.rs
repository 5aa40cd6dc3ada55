//! NEON: a vector is four registers.
#![allow(clippy::needless_range_loop, reason = "several arrays of registers are walked at once")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Bias, Kernel, LANES, Rows, Simd, Words};

/// NEON; with `DOTPROD` also dot products of four bytes. Only [`run`] and
/// [`run_dotprod`] use it, on processors that have them.
#[derive(Clone, Copy)]
pub struct Neon<const DOTPROD: bool>;

/// Runs `kernel` with these instructions.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "neon")]
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon<false>>()
}

/// Runs `kernel` with these instructions, dot products among them.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "neon,dotprod")]
pub unsafe fn run_dotprod<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon<true>>()
}

type Floats = [float32x4_t; 4];
type Integers = [uint32x4_t; 4];

/// An expression for each quarter `$i` of a vector.
macro_rules! quarters {
    ($i:ident => $quarter:expr) => {
        [
            {
                let $i = 0;
                $quarter
            },
            {
                let $i = 1;
                $quarter
            },
            {
                let $i = 2;
                $quarter
            },
            {
                let $i = 3;
                $quarter
            },
        ]
    };
}

/// Defines a method whose quarters are one function's each.
macro_rules! by_quarters {
    ($($name:ident($($x:ident: $ty:ty),*) -> $out:ty = $function:path;)*) => {$(
        #[inline(always)]
        fn $name($($x: $ty),*) -> $out {
            // SAFETY: `run` requires NEON.
            unsafe { quarters!(i => $function($($x[i]),*)) }
        }
    )*};
}

impl<const DOTPROD: bool> Simd for Neon<DOTPROD> {
    type F32 = Floats;
    type U32 = Integers;

    by_quarters! {
        add(a: Floats, b: Floats) -> Floats = vaddq_f32;
        mul(a: Floats, b: Floats) -> Floats = vmulq_f32;
        max(a: Floats, b: Floats) -> Floats = larger;
        min(a: Floats, b: Floats) -> Floats = smaller;
        div(a: Floats, b: Floats) -> Floats = vdivq_f32;
        mul_add(a: Floats, b: Floats, c: Floats) -> Floats = multiply_add;
        and(a: Integers, b: Integers) -> Integers = vandq_u32;
        or(a: Integers, b: Integers) -> Integers = vorrq_u32;
        xor(a: Integers, b: Integers) -> Integers = veorq_u32;
        add_u32(a: Integers, b: Integers) -> Integers = vaddq_u32;
        mul_u32(a: Integers, b: Integers) -> Integers = vmulq_u32;
        from_i32(x: Integers) -> Floats = from_i32;
        from_bits(x: Integers) -> Floats = vreinterpretq_f32_u32;
        bits(x: Floats) -> Integers = vreinterpretq_u32_f32;
        from_f16(x: Integers) -> Floats = from_f16;
        pair_bf16(low: Floats, high: Floats) -> Integers = pair_bf16;
    }

    #[inline(always)]
    fn splat(x: f32) -> Floats {
        // SAFETY: `run` requires NEON.
        [unsafe { vdupq_n_f32(x) }; 4]
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Floats {
        // SAFETY: the quarters are inside the array; `run` requires NEON.
        unsafe { quarters!(i => vld1q_f32(x.as_ptr().add(4 * i))) }
    }

    #[inline(always)]
    fn load_f16(x: &[u8; 2 * LANES]) -> Floats {
        // SAFETY: `run` requires NEON.
        unsafe { quarters!(i => vcvt_f32_f16(vreinterpret_f16_u16(four_halves(x, i)))) }
    }

    #[inline(always)]
    fn load_bf16(x: &[u8; 2 * LANES]) -> Floats {
        // SAFETY: `run` requires NEON.
        unsafe { quarters!(i => vreinterpretq_f32_u32(vshll_n_u16::<16>(four_halves(x, i)))) }
    }

    #[inline(always)]
    fn store_f16(x: Floats, out: &mut [u8; 2 * LANES]) {
        for (x, out) in x.into_iter().zip(out.as_chunks_mut::<8>().0) {
            // SAFETY: the eight bytes are the array's; `run` requires NEON.
            unsafe { vst1_u8(out.as_mut_ptr(), vreinterpret_u8_f16(vcvt_f16_f32(x))) };
        }
    }

    #[inline(always)]
    fn store(x: Floats, out: &mut [f32; LANES]) {
        for (x, out) in x.into_iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: the four elements are the array's; `run` requires NEON.
            unsafe { vst1q_f32(out.as_mut_ptr(), x) };
        }
    }

    #[inline(always)]
    fn sum(x: Floats) -> f32 {
        // SAFETY: `run` requires NEON.
        unsafe {
            let x = vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]));
            vpadds_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x)))
        }
    }

    #[inline(always)]
    fn largest(x: Floats) -> f32 {
        // SAFETY: `run` requires NEON.
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(x[0], x[1]), vmaxnmq_f32(x[2], x[3]))) }
    }

    #[inline(always)]
    fn splat_u32(x: u32) -> Integers {
        // SAFETY: `run` requires NEON.
        [unsafe { vdupq_n_u32(x) }; 4]
    }

    #[inline(always)]
    fn load_u32(x: &Words) -> Integers {
        // SAFETY: `run` requires NEON.
        unsafe { quarters!(i => quarter(x, i)) }
    }

    #[inline(always)]
    fn store_u32(x: Integers, out: &mut Words) {
        for (x, out) in x.into_iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: the four elements are the array's; `run` requires NEON.
            unsafe { vst1q_u32(out.as_mut_ptr(), x) };
        }
    }

    #[inline(always)]
    fn low_bytes(x: Integers) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: the array has sixteen bytes; `run` requires NEON.
        unsafe {
            let halves = quarters!(i => vreinterpretq_u16_u32(x[i]));
            let (low, high) = (vuzp1q_u16(halves[0], halves[1]), vuzp1q_u16(halves[2], halves[3]));
            let packed = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
            vst1q_u8(bytes.as_mut_ptr(), packed);
        }
        bytes
    }

    #[inline(always)]
    fn shl<const N: u32>(x: Integers) -> Integers {
        // SAFETY: `run` requires NEON.
        unsafe { quarters!(i => vshlq_u32(x[i], vdupq_n_s32(N as i32))) }
    }

    #[inline(always)]
    fn shr<const N: u32>(x: Integers) -> Integers {
        // SAFETY: `run` requires NEON.
        unsafe { quarters!(i => vshlq_u32(x[i], vdupq_n_s32(-(N as i32)))) }
    }

    #[inline(always)]
    fn sar<const N: u32>(x: Integers) -> Integers {
        // SAFETY: `run` requires NEON.
        unsafe {
            let down = vdupq_n_s32(-(N as i32));
            quarters!(i => vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(x[i]), down)))
        }
    }

    #[inline(always)]
    unsafe fn words(rows: &Rows, at: usize) -> Integers {
        // SAFETY: the caller's promise; `run` requires NEON.
        unsafe { quarters!(i => four_words(rows, 4 * i, at)) }
    }

    #[inline(always)]
    unsafe fn columns(rows: &Rows, at: usize) -> [Integers; 4] {
        // SAFETY: the caller's promise; `run` requires NEON.
        let by_rows = unsafe { quarters!(i => four_columns(rows, 4 * i, at)) };
        quarters!(column => quarters!(i => by_rows[i][column]))
    }

    #[inline(always)]
    fn dots<const STEPS: usize, const T: usize, const BIASED: bool>(
        w: &[Words; STEPS],
        x: &[u32],
        sums: &[u32],
        bias: Bias,
    ) -> [Floats; T] {
        let mut start = [Self::splat_u32(0)[0]; T];
        if BIASED {
            for (start, &sum) in start.iter_mut().zip(&sums[..T]) {
                *start = Self::start(sum, bias)[0];
            }
        }
        let x = &x[..STEPS * T];
        match (DOTPROD, bias.largest) {
            (true, 0..=127) => dots_of_four::<STEPS, T, false>(w, x, start),
            (true, _) => dots_of_four::<STEPS, T, true>(w, x, start),
            (false, 0..=31) => dots_in_halves::<STEPS, T, 8, false>(w, x, start),
            (false, 32..=64) => dots_in_halves::<STEPS, T, 4, false>(w, x, start),
            (false, 65..=127) => dots_in_halves::<STEPS, T, 2, false>(w, x, start),
            (false, _) => dots_in_halves::<STEPS, T, 2, true>(w, x, start),
        }
    }

    /// Signed bytes are multiplied with signed ones: what would be more than 127 loses its bias.
    #[inline(always)]
    fn start(minus_sum: u32, bias: Bias) -> Integers {
        Self::splat_u32(if bias.largest < 128 { minus_sum << bias.shift } else { 0 })
    }

    #[inline(always)]
    fn add_dots(sum: Integers, w: [Integers; 4], x: &[u32; 4], bias: Bias) -> Integers {
        let flip = bias.largest > 127;
        // SAFETY: `x` has four words; `run` requires NEON, and `run_dotprod` what `add_four` does.
        unsafe {
            if DOTPROD {
                let x = vld1q_u32(x.as_ptr());
                return quarters!(i => {
                    let sum = vreinterpretq_s32_u32(sum[i]);
                    let sum = add_four::<0>(sum, signed(w[0][i], flip), x);
                    let sum = add_four::<1>(sum, signed(w[1][i], flip), x);
                    let sum = add_four::<2>(sum, signed(w[2][i], flip), x);
                    vreinterpretq_u32_s32(add_four::<3>(sum, signed(w[3][i], flip), x))
                });
            }
            let x = quarters!(step => vreinterpretq_s8_u32(vdupq_n_u32(x[step])));
            quarters!(i => {
                let w = quarters!(step => signed(w[step][i], flip));
                let sum = vreinterpretq_s32_u32(sum[i]);
                let sum = if bias.largest <= 64 {
                    add_in_halves::<4, 4>(sum, &w, &x)
                } else {
                    add_in_halves::<4, 2>(sum, &w, &x)
                };
                vreinterpretq_u32_s32(sum)
            })
        }
    }
}

/// As [`Simd::dots`] from `start` on; with `FLIP` bytes lose a bias of 128.
#[inline(always)]
fn dots_of_four<const STEPS: usize, const T: usize, const FLIP: bool>(
    w: &[Words; STEPS],
    x: &[u32],
    start: [uint32x4_t; T],
) -> [Floats; T] {
    let mut floats = [Neon::<true>::splat(0.0); T];
    // As many sums as fit half the registers.
    if T > 4 {
        some_quarters::<STEPS, T, 2, FLIP>(0, w, x, start, &mut floats);
        some_quarters::<STEPS, T, 2, FLIP>(2, w, x, start, &mut floats);
    } else {
        some_quarters::<STEPS, T, 4, FLIP>(0, w, x, start, &mut floats);
    }
    floats
}

/// The same for `N` quarters from `first` on.
#[inline(always)]
fn some_quarters<const STEPS: usize, const T: usize, const N: usize, const FLIP: bool>(
    first: usize,
    w: &[Words; STEPS],
    x: &[u32],
    start: [uint32x4_t; T],
    floats: &mut [Floats; T],
) {
    // SAFETY: `run_dotprod` requires NEON and dot products; a chunk of `x` has four words.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); T]; N];
        for i in 0..N {
            for t in 0..T {
                sums[i][t] = vreinterpretq_s32_u32(start[t]);
            }
        }
        for step in 0..STEPS {
            let (fours, rest) = x[step * T..(step + 1) * T].as_chunks::<4>();
            for i in 0..N {
                let (sums, w) = (&mut sums[i], signed(quarter(&w[step], first + i), FLIP));
                for (j, x) in fours.iter().enumerate() {
                    let x = vld1q_u32(x.as_ptr());
                    sums[4 * j] = add_four::<0>(sums[4 * j], w, x);
                    sums[4 * j + 1] = add_four::<1>(sums[4 * j + 1], w, x);
                    sums[4 * j + 2] = add_four::<2>(sums[4 * j + 2], w, x);
                    sums[4 * j + 3] = add_four::<3>(sums[4 * j + 3], w, x);
                }
                for (j, &x) in rest.iter().enumerate() {
                    let sum = &mut sums[T / 4 * 4 + j];
                    *sum = add_four::<0>(*sum, w, vdupq_n_u32(x));
                }
            }
        }
        for i in 0..N {
            for t in 0..T {
                floats[t][first + i] = vcvtq_f32_s32(sums[i][t]);
            }
        }
    }
}

/// The same where products of `N` steps fit 16 bits.
#[inline(always)]
fn dots_in_halves<const STEPS: usize, const T: usize, const N: usize, const FLIP: bool>(
    w: &[Words; STEPS],
    x: &[u32],
    start: [uint32x4_t; T],
) -> [Floats; T] {
    let mut floats = [Neon::<false>::splat(0.0); T];
    // SAFETY: `run` requires NEON.
    unsafe {
        for i in 0..4 {
            let mut quarters = [vdupq_n_s8(0); STEPS];
            for step in 0..STEPS {
                quarters[step] = signed(quarter(&w[step], i), FLIP);
            }
            for t in 0..T {
                let mut row = [vdupq_n_s8(0); STEPS];
                for step in 0..STEPS {
                    row[step] = vreinterpretq_s8_u32(vdupq_n_u32(x[step * T + t]));
                }
                let sum = vreinterpretq_s32_u32(start[t]);
                floats[t][i] = vcvtq_f32_s32(add_in_halves::<STEPS, N>(sum, &quarters, &row));
            }
        }
    }
    floats
}

/// Each word of `sum` plus the dot product of its bytes of `w` with word `LANE` of `x`.
///
/// # Safety
/// The processor has NEON and dot products.
#[inline(always)]
unsafe fn add_four<const LANE: usize>(sum: int32x4_t, w: int8x16_t, x: uint32x4_t) -> int32x4_t {
    let out;
    // The intrinsic is unstable.
    // SAFETY: the caller's promise; the instruction changes the sum alone.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum => out,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// Each word of `sum` plus the dot products of its bytes of `w` with those of `x`
/// over all steps. Products of `N` steps fit 16 bits.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn add_in_halves<const STEPS: usize, const N: usize>(
    mut sum: int32x4_t,
    w: &[int8x16_t; STEPS],
    x: &[int8x16_t; STEPS],
) -> int32x4_t {
    let mut step = 0;
    while step < STEPS {
        let end = if step + N < STEPS { step + N } else { STEPS };
        // SAFETY: the caller's promise.
        unsafe {
            let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
            while step < end {
                low = vmlal_s8(low, vget_low_s8(w[step]), vget_low_s8(x[step]));
                high = vmlal_high_s8(high, w[step], x[step]);
                step += 1;
            }
            sum = vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
        }
    }
    sum
}

/// The bytes of `w`; with `flip` without their bias of 128.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn signed(w: uint32x4_t, flip: bool) -> int8x16_t {
    // SAFETY: the caller's promise.
    unsafe {
        let w = if flip { veorq_u32(w, vdupq_n_u32(0x8080_8080)) } else { w };
        vreinterpretq_s8_u32(w)
    }
}

/// Quarter `i` of sixteen words.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn quarter(x: &Words, i: usize) -> uint32x4_t {
    // SAFETY: the caller's promise; the quarter is inside the array.
    unsafe { vld1q_u32(x[4 * i..4 * i + 4].as_ptr()) }
}

/// Quarter `i` of sixteen two-byte elements.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn four_halves(x: &[u8; 2 * LANES], i: usize) -> uint16x4_t {
    // SAFETY: the caller's promise; the quarter is inside the array.
    unsafe { vreinterpret_u16_u8(vld1_u8(x[8 * i..8 * i + 8].as_ptr())) }
}

/// The word at `at` of rows `i` to `i + 3`.
///
/// # Safety
/// The processor has NEON, and the rows have four bytes there.
#[inline(always)]
unsafe fn four_words(rows: &Rows, i: usize, at: usize) -> uint32x4_t {
    // SAFETY: the caller's promise; the array has four words.
    unsafe {
        let words = quarters!(j => rows.at(i + j, at).cast::<u32>().read_unaligned());
        vld1q_u32(words.as_ptr())
    }
}

/// The four words at `at` of rows `i` to `i + 3`: a vector of rows for each.
///
/// # Safety
/// The processor has NEON, and the rows have sixteen bytes there.
#[inline(always)]
unsafe fn four_columns(rows: &Rows, i: usize, at: usize) -> [uint32x4_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b, c, d] = quarters!(j => vreinterpretq_u32_u8(vld1q_u8(rows.at(i + j, at))));
        // Columns 0 and 2 of two rows, then 1 and 3.
        let (ab, ab_odd) = (vreinterpretq_u64_u32(vtrn1q_u32(a, b)), vreinterpretq_u64_u32(vtrn2q_u32(a, b)));
        let (cd, cd_odd) = (vreinterpretq_u64_u32(vtrn1q_u32(c, d)), vreinterpretq_u64_u32(vtrn2q_u32(c, d)));
        [
            vreinterpretq_u32_u64(vtrn1q_u64(ab, cd)),
            vreinterpretq_u32_u64(vtrn1q_u64(ab_odd, cd_odd)),
            vreinterpretq_u32_u64(vtrn2q_u64(ab, cd)),
            vreinterpretq_u32_u64(vtrn2q_u64(ab_odd, cd_odd)),
        ]
    }
}

/// Lane by lane the larger; `b` where either is NaN.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

/// Lane by lane the smaller; `b` where either is NaN.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn smaller(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
}

/// `a * b + c`, rounded once.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn multiply_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vfmaq_f32(c, a, b) }
}

/// Each word as a signed integer.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn from_i32(x: uint32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vcvtq_f32_s32(vreinterpretq_s32_u32(x)) }
}

/// Each word's lower half, an IEEE half.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn from_f16(x: uint32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(x))) }
}

/// As [`Simd::pair_bf16`], of four lanes.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn pair_bf16(low: float32x4_t, high: float32x4_t) -> uint32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vsriq_n_u32::<16>(round_bf16(high), round_bf16(low)) }
}

/// Each float rounded to its upper half, ties to even; NaN stays NaN.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn round_bf16(x: float32x4_t) -> uint32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = vreinterpretq_u32_f32(x);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        vbslq_u32(vceqq_f32(x, x), rounded, vorrq_u32(bits, vdupq_n_u32(0x40_0000)))
    }
}
