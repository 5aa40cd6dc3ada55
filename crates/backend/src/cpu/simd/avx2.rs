//! AVX2: a vector is two registers.

use std::arch::x86_64::*;

use super::{Bias, Kernel, LANES, Rows, Simd, Words};

/// AVX2, FMA and F16C. Only [`run`] uses it, on processors that have them.
#[derive(Clone, Copy)]
pub struct Avx2;

/// Runs `kernel` with these instructions.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

type Floats = (__m256, __m256);
type Integers = (__m256i, __m256i);

/// Defines a method whose halves are one intrinsic each.
macro_rules! halves {
    ($($name:ident($($x:ident: $ty:ty),*) -> $out:ty = $intrinsic:path;)*) => {$(
        #[inline(always)]
        fn $name($($x: $ty),*) -> $out {
            // SAFETY: `run` requires AVX2, FMA and F16C.
            unsafe { ($intrinsic($($x.0),*), $intrinsic($($x.1),*)) }
        }
    )*};
}

impl Simd for Avx2 {
    type F32 = Floats;
    type U32 = Integers;

    halves! {
        add(a: Floats, b: Floats) -> Floats = _mm256_add_ps;
        mul(a: Floats, b: Floats) -> Floats = _mm256_mul_ps;
        max(a: Floats, b: Floats) -> Floats = _mm256_max_ps;
        min(a: Floats, b: Floats) -> Floats = _mm256_min_ps;
        div(a: Floats, b: Floats) -> Floats = _mm256_div_ps;
        mul_add(a: Floats, b: Floats, c: Floats) -> Floats = _mm256_fmadd_ps;
        and(a: Integers, b: Integers) -> Integers = _mm256_and_si256;
        or(a: Integers, b: Integers) -> Integers = _mm256_or_si256;
        xor(a: Integers, b: Integers) -> Integers = _mm256_xor_si256;
        add_u32(a: Integers, b: Integers) -> Integers = _mm256_add_epi32;
        mul_u32(a: Integers, b: Integers) -> Integers = _mm256_mullo_epi32;
        from_i32(x: Integers) -> Floats = _mm256_cvtepi32_ps;
        from_bits(x: Integers) -> Floats = _mm256_castsi256_ps;
        bits(x: Floats) -> Integers = _mm256_castps_si256;
    }

    #[inline(always)]
    fn splat(x: f32) -> Floats {
        // SAFETY: `run` requires AVX2.
        let x = unsafe { _mm256_set1_ps(x) };
        (x, x)
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Floats {
        // SAFETY: both halves are inside the array; `run` requires AVX2.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn load_f16(x: &[u8; 2 * LANES]) -> Floats {
        // SAFETY: both halves are inside the array; `run` requires F16C.
        unsafe {
            (
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(16).cast())),
            )
        }
    }

    #[inline(always)]
    fn load_bf16(x: &[u8; 2 * LANES]) -> Floats {
        // SAFETY: both halves are inside the array; `run` requires AVX2.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(16).cast()));
            Self::from_bits(Self::shl::<16>((low, high)))
        }
    }

    #[inline(always)]
    fn load_i8(x: &[u8; LANES]) -> Floats {
        // SAFETY: the array has sixteen bytes; `run` requires AVX2.
        unsafe {
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_unpackhi_epi64(bytes, bytes);
            (_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)))
        }
    }

    #[inline(always)]
    fn load_e4m3(x: &[u8; LANES]) -> Floats {
        // SAFETY: the array has sixteen bytes; `run` requires AVX2 and F16C.
        unsafe {
            let halves = e4m3_halves(x);
            let (low, high) = (_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            let scale = _mm256_set1_ps(256.0);
            (_mm256_mul_ps(_mm256_cvtph_ps(low), scale), _mm256_mul_ps(_mm256_cvtph_ps(high), scale))
        }
    }

    #[inline(always)]
    fn store_f16(x: Floats, out: &mut [u8; 2 * LANES]) {
        // SAFETY: the array has 32 bytes; `run` requires F16C.
        unsafe {
            let low = _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(x.0);
            let high = _mm256_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT }>(x.1);
            _mm_storeu_si128(out.as_mut_ptr().cast(), low);
            _mm_storeu_si128(out.as_mut_ptr().add(16).cast(), high);
        }
    }

    #[inline(always)]
    fn store(x: Floats, out: &mut [f32; LANES]) {
        // SAFETY: both halves are inside the array; `run` requires AVX2.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), x.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x.1);
        }
    }

    #[inline(always)]
    fn sum(x: Floats) -> f32 {
        // SAFETY: `run` requires AVX2.
        unsafe { sum8(_mm256_add_ps(x.0, x.1)) }
    }

    #[inline(always)]
    fn largest(x: Floats) -> f32 {
        // SAFETY: `run` requires AVX2.
        unsafe { largest8(_mm256_max_ps(x.0, x.1)) }
    }

    #[inline(always)]
    fn low_bytes(x: Integers) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: the array has sixteen bytes; `run` requires AVX2.
        unsafe {
            let low = Self::and(x, Self::splat_u32(0xff));
            // Packing works within 128 bits: words 0–3 and 8–11, then 4–7 and 12–15.
            let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low.0, low.1));
            let packed =
                _mm_packus_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), packed);
        }
        bytes
    }

    #[inline(always)]
    fn splat_u32(x: u32) -> Integers {
        // SAFETY: `run` requires AVX2.
        let x = unsafe { _mm256_set1_epi32(x as i32) };
        (x, x)
    }

    #[inline(always)]
    fn load_u32(x: &Words) -> Integers {
        // SAFETY: both halves are inside the array; `run` requires AVX2.
        unsafe { (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())) }
    }

    #[inline(always)]
    fn store_u32(x: Integers, out: &mut Words) {
        // SAFETY: both halves are inside the array; `run` requires AVX2.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), x.0);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), x.1);
        }
    }

    #[inline(always)]
    fn shl<const N: u32>(x: Integers) -> Integers {
        // SAFETY: `run` requires AVX2.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            (_mm256_sll_epi32(x.0, n), _mm256_sll_epi32(x.1, n))
        }
    }

    #[inline(always)]
    fn shr<const N: u32>(x: Integers) -> Integers {
        // SAFETY: `run` requires AVX2.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            (_mm256_srl_epi32(x.0, n), _mm256_srl_epi32(x.1, n))
        }
    }

    #[inline(always)]
    fn sar<const N: u32>(x: Integers) -> Integers {
        // SAFETY: `run` requires AVX2.
        unsafe {
            let n = _mm_cvtsi32_si128(N as i32);
            (_mm256_sra_epi32(x.0, n), _mm256_sra_epi32(x.1, n))
        }
    }

    #[inline(always)]
    fn from_f16(x: Integers) -> Floats {
        // SAFETY: `run` requires F16C.
        unsafe {
            let low = Self::and(x, Self::splat_u32(0xffff));
            // Packing works within 128 bits: words 0–3 and 8–11, then 4–7 and 12–15.
            let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low.0, low.1));
            (
                _mm256_cvtph_ps(_mm256_castsi256_si128(packed)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed)),
            )
        }
    }

    #[inline(always)]
    fn pair_bf16(low: Floats, high: Floats) -> Integers {
        // SAFETY: `run` requires AVX2.
        unsafe { (pair8(low.0, high.0), pair8(low.1, high.1)) }
    }

    #[inline(always)]
    unsafe fn words(rows: &Rows, at: usize) -> Integers {
        // SAFETY: the caller's promise; `run` requires AVX2.
        unsafe { (eight_words(rows, 0, at), eight_words(rows, 8, at)) }
    }

    #[inline(always)]
    unsafe fn columns(rows: &Rows, at: usize) -> [Integers; 4] {
        // SAFETY: the caller's promise; `run` requires AVX2.
        unsafe {
            let (low, high) = (columns8(rows, 0, at), columns8(rows, 8, at));
            [(low[0], high[0]), (low[1], high[1]), (low[2], high[2]), (low[3], high[3])]
        }
    }

    #[inline(always)]
    fn dots<const STEPS: usize, const T: usize, const BIASED: bool>(
        w: &[Words; STEPS],
        x: &[u32],
        sums: &[u32],
        bias: Bias,
    ) -> [Floats; T] {
        let x = &x[..STEPS * T];
        // The products of two bytes and two activations are summed in 16 bits:
        // how many such sums fit depends on the largest byte.
        let dots: [Integers; T] = match bias.largest {
            0..=15 => unsigned::<STEPS, T, 8>(w, x),
            16..=31 => unsigned::<STEPS, T, 4>(w, x),
            32..=64 => unsigned::<STEPS, T, 2>(w, x),
            _ => return signed::<STEPS, T, BIASED>(w, x),
        };
        let mut floats = [Self::splat(0.0); T];
        for t in 0..T {
            let mut dot = dots[t];
            if BIASED {
                let start = Self::splat_u32(sums[t] << bias.shift);
                // SAFETY: `run` requires AVX2.
                dot = unsafe { (_mm256_add_epi32(dot.0, start.0), _mm256_add_epi32(dot.1, start.1)) };
            }
            floats[t] = Self::from_i32(dot);
        }
        floats
    }

    #[inline(always)]
    fn add_dots(mut sum: Integers, w: [Integers; 4], x: &[u32; 4], bias: Bias) -> Integers {
        for i in 0..4 {
            // SAFETY: `run` requires AVX2.
            sum = unsafe {
                let x = _mm256_set1_epi32(x[i] as i32);
                (add_dot8(sum.0, w[i].0, x, bias), add_dot8(sum.1, w[i].1, x, bias))
            };
        }
        sum
    }
}

/// A step of [`Simd::add_dots`], of eight lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn add_dot8(sum: __m256i, w: __m256i, x: __m256i, bias: Bias) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        if bias.largest <= 128 {
            // Two products are at most 2 · 128 · 127.
            return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
        }
        // Even and odd bytes apart, each product in 16 bits, summed in 32.
        let (low, high) = (_mm256_and_si256(w, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(w));
        let (x_low, x_high) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x));
        let both = _mm256_add_epi32(_mm256_madd_epi16(low, x_low), _mm256_madd_epi16(high, x_high));
        _mm256_add_epi32(sum, both)
    }
}

/// Eight words of sixteen, to be multiplied.
#[inline(always)]
fn load_half(w: &Words, half: usize) -> __m256i {
    // SAFETY: both halves are inside the array; `run` requires AVX2.
    unsafe { _mm256_loadu_si256(w.as_ptr().add(8 * half).cast()) }
}

/// Dot products of unsigned bytes so small that `N` pair sums fit 16 bits.
#[inline(always)]
fn unsigned<const STEPS: usize, const T: usize, const N: usize>(
    w: &[Words; STEPS],
    x: &[u32],
) -> [Integers; T] {
    let mut dots = [Avx2::splat_u32(0); T];
    // SAFETY: `run` requires AVX2.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        for half in 0..2 {
            let mut step = 0;
            while step < STEPS {
                let mut pairs = [_mm256_setzero_si256(); T];
                let end = if step + N < STEPS { step + N } else { STEPS };
                while step < end {
                    let w = load_half(&w[step], half);
                    for t in 0..T {
                        let x = _mm256_set1_epi32(x[step * T + t] as i32);
                        pairs[t] = _mm256_add_epi16(pairs[t], _mm256_maddubs_epi16(w, x));
                    }
                    step += 1;
                }
                for t in 0..T {
                    let sums = _mm256_madd_epi16(pairs[t], ones);
                    if half == 0 {
                        dots[t].0 = _mm256_add_epi32(dots[t].0, sums);
                    } else {
                        dots[t].1 = _mm256_add_epi32(dots[t].1, sums);
                    }
                }
            }
        }
    }
    dots
}

/// Dot products of bytes to which 128 was added (or none, where they are under
/// 128): the sign moves from weight to activation, so that no pair of products
/// (at most 2 · 128 · 127) overflows 16 bits.
#[inline(always)]
fn signed<const STEPS: usize, const T: usize, const BIASED: bool>(
    w: &[Words; STEPS],
    x: &[u32],
) -> [Floats; T] {
    let mut floats = [Avx2::splat(0.0); T];
    // SAFETY: `run` requires AVX2.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let flip = _mm256_set1_epi8(if BIASED { -128 } else { 0 });
        for half in 0..2 {
            let mut dots = [_mm256_setzero_si256(); T];
            for step in 0..STEPS {
                let w = _mm256_xor_si256(load_half(&w[step], half), flip);
                let magnitude = _mm256_abs_epi8(w);
                for t in 0..T {
                    let x = _mm256_sign_epi8(_mm256_set1_epi32(x[step * T + t] as i32), w);
                    let pairs = _mm256_maddubs_epi16(magnitude, x);
                    dots[t] = _mm256_add_epi32(dots[t], _mm256_madd_epi16(pairs, ones));
                }
            }
            for t in 0..T {
                let dot = _mm256_cvtepi32_ps(dots[t]);
                if half == 0 {
                    floats[t].0 = dot;
                } else {
                    floats[t].1 = dot;
                }
            }
        }
    }
    floats
}

/// The four words at `at` of eight rows, in order of rows.
///
/// # Safety
/// The processor has AVX2, and each row has sixteen bytes there.
#[inline(always)]
unsafe fn columns8(rows: &Rows, first: usize, at: usize) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let a = two_rows(rows, first, at);
        let b = two_rows(rows, first + 1, at);
        let c = two_rows(rows, first + 2, at);
        let d = two_rows(rows, first + 3, at);
        let (ab, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

/// Sixteen bytes at `at` of rows `i` and `i + 4`.
///
/// # Safety
/// The processor has AVX2, and the rows have the bytes.
#[inline(always)]
unsafe fn two_rows(rows: &Rows, i: usize, at: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(xmm(rows, i, at)), xmm(rows, i + 4, at)) }
}

/// The word at `at` of rows `i` to `i + 7`.
///
/// # Safety
/// The processor has AVX2, and the rows have four bytes there.
#[inline(always)]
unsafe fn eight_words(rows: &Rows, i: usize, at: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_castsi128_si256(four_words(rows, i, at));
        _mm256_inserti128_si256::<1>(low, four_words(rows, i + 4, at))
    }
}

/// The word at `at` of rows `i` to `i + 3`.
///
/// # Safety
/// The processor has AVX2, and the rows have four bytes there.
#[inline(always)]
pub(super) unsafe fn four_words(rows: &Rows, i: usize, at: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        _mm_setr_epi32(word(rows, i, at), word(rows, i + 1, at), word(rows, i + 2, at), word(rows, i + 3, at))
    }
}

/// The word at `at` of row `i`.
///
/// # Safety
/// The row has four bytes there.
#[inline(always)]
unsafe fn word(rows: &Rows, i: usize, at: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { rows.at(i, at).cast::<i32>().read_unaligned() }
}

/// Sixteen bytes at `at` of row `i`.
///
/// # Safety
/// The row has them.
#[inline(always)]
pub(super) unsafe fn xmm(rows: &Rows, i: usize, at: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_loadu_si128(rows.at(i, at).cast()) }
}

/// As `Simd::pair_bf16`, of eight lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn pair8(low: __m256, high: __m256) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_blend_epi16::<0xaa>(_mm256_srli_epi32::<16>(round8(low)), round8(high)) }
}

/// Each float rounded to its upper half, ties to even; NaN stays NaN.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn round8(x: __m256) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000)), nan)
    }
}

/// The largest of eight lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn largest8(x: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
    }
}

/// The tree of [`Simd::sum`] from eight lanes on.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(super) unsafe fn sum8(x: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
    }
}

/// The halves that are a 256th of sixteen E4M3 numbers: the same fields in other places.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub unsafe fn e4m3_halves(x: &[u8; LANES]) -> __m256i {
    // SAFETY: the array has sixteen bytes; the caller's promise.
    unsafe {
        // The sign is in all upper bits, and after the shift in two: one is the exponent's.
        let words = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(_mm_loadu_si128(x.as_ptr().cast())));
        _mm256_andnot_si256(_mm256_set1_epi16(0x4000), words)
    }
}
