//! AVX-512 with VNNI: a vector is one register.

use std::arch::x86_64::*;

use super::avx2::{e4m3_halves, four_words, largest8, sum8, xmm};
use super::{Bias, Kernel, LANES, Rows, Simd, Words, add_in_two_steps};

/// AVX-512 F, BW, VL, DQ and VNNI; with `BF16` also AVX-512 BF16. Only [`run`]
/// and [`run_bf16`] use it, on processors that have them.
#[derive(Clone, Copy)]
pub struct Avx512<const BF16: bool>;

/// Runs `kernel` with these instructions.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512<false>>()
}

/// Runs `kernel` with these instructions, those for bf16 among them.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
pub unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512<true>>()
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type F32 = __m512;
    type U32 = __m512i;

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> __m512 {
        // SAFETY: the array has sixteen elements; `run` requires AVX-512.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(x: &[u8; 2 * LANES]) -> __m512 {
        // SAFETY: the array has 32 bytes; `run` requires AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(x: &[u8; 2 * LANES]) -> __m512 {
        // SAFETY: the array has 32 bytes; `run` requires AVX-512.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn load_i8(x: &[u8; LANES]) -> __m512 {
        // SAFETY: the array has sixteen bytes; `run` requires AVX-512.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_e4m3(x: &[u8; LANES]) -> __m512 {
        // SAFETY: the array has sixteen bytes; `run` requires AVX-512, which includes AVX2.
        unsafe { _mm512_mul_ps(_mm512_cvtph_ps(e4m3_halves(x)), _mm512_set1_ps(256.0)) }
    }

    #[inline(always)]
    fn store_f16(x: __m512, out: &mut [u8; 2 * LANES]) {
        // SAFETY: the array has 32 bytes; `run` requires AVX-512.
        unsafe {
            let halves = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), halves);
        }
    }

    #[inline(always)]
    fn store(x: __m512, out: &mut [f32; LANES]) {
        // SAFETY: the array has sixteen elements; `run` requires AVX-512.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn sum(x: __m512) -> f32 {
        // SAFETY: `run` requires AVX-512, which includes AVX2.
        unsafe { sum8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))) }
    }

    #[inline(always)]
    fn largest(x: __m512) -> f32 {
        // SAFETY: `run` requires AVX-512, which includes AVX2.
        unsafe { largest8(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))) }
    }

    #[inline(always)]
    fn bits(x: __m512) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_castps_si512(x) }
    }

    #[inline(always)]
    fn low_bytes(x: __m512i) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: the array has sixteen bytes; `run` requires AVX-512.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x)) };
        bytes
    }

    #[inline(always)]
    fn splat_u32(x: u32) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_set1_epi32(x as i32) }
    }

    #[inline(always)]
    fn load_u32(x: &Words) -> __m512i {
        // SAFETY: the array has sixteen elements; `run` requires AVX-512.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_u32(x: __m512i, out: &mut Words) {
        // SAFETY: the array has sixteen elements; `run` requires AVX-512.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
    }

    #[inline(always)]
    fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    fn xor(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    fn shl<const N: u32>(x: __m512i) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_slli_epi32::<N>(x) }
    }

    #[inline(always)]
    fn shr<const N: u32>(x: __m512i) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_srli_epi32::<N>(x) }
    }

    #[inline(always)]
    fn sar<const N: u32>(x: __m512i) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_srai_epi32::<N>(x) }
    }

    #[inline(always)]
    fn add_u32(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn mul_u32(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    fn from_i32(x: __m512i) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn from_bits(x: __m512i) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_castsi512_ps(x) }
    }

    #[inline(always)]
    fn from_f16(x: __m512i) -> __m512 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)) }
    }

    #[inline(always)]
    fn pair_bf16(low: __m512, high: __m512) -> __m512i {
        if BF16 {
            // SAFETY: `run_bf16` requires AVX-512 BF16 and BW.
            unsafe {
                // First the lower ones, then the higher: every other one in turn.
                let packed = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                let order = _mm512_add_epi32(
                    _mm512_set1_epi32(16 << 16),
                    _mm512_mullo_epi32(_mm512_set1_epi32(0x1_0001), lane_numbers()),
                );
                return _mm512_permutexvar_epi16(order, packed);
            }
        }
        // SAFETY: `run` requires AVX-512.
        unsafe {
            _mm512_or_si512(
                _mm512_srli_epi32::<16>(round_bf16(low)),
                _mm512_and_si512(round_bf16(high), _mm512_set1_epi32(-0x1_0000)),
            )
        }
    }

    #[inline(always)]
    fn pack_bf16(first: __m512, second: __m512) -> __m512i {
        if !BF16 {
            unreachable!("only AMX packs, and what has it has AVX-512 BF16");
        }
        // SAFETY: `run_bf16` requires AVX-512 BF16.
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first)) }
    }

    #[inline(always)]
    unsafe fn words(rows: &Rows, at: usize) -> __m512i {
        // SAFETY: the caller's promise; `run` requires AVX-512.
        unsafe {
            join(
                four_words(rows, 0, at),
                four_words(rows, 4, at),
                four_words(rows, 8, at),
                four_words(rows, 12, at),
            )
        }
    }

    #[inline(always)]
    unsafe fn columns(rows: &Rows, at: usize) -> [__m512i; 4] {
        // SAFETY: the caller's promise; `run` requires AVX-512.
        unsafe {
            let a = four_rows(rows, 0, at);
            let b = four_rows(rows, 1, at);
            let c = four_rows(rows, 2, at);
            let d = four_rows(rows, 3, at);
            let (ab, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }

    #[inline(always)]
    fn dots<const STEPS: usize, const T: usize, const BIASED: bool>(
        w: &[Words; STEPS],
        x: &[u32],
        sums: &[u32],
        bias: Bias,
    ) -> [__m512; T] {
        // SAFETY: `run` requires AVX-512 with VNNI.
        unsafe {
            let mut dots = [_mm512_setzero_si512(); T];
            if BIASED {
                let shift = _mm512_set1_epi32(bias.shift as i32);
                for (dot, &sum) in dots.iter_mut().zip(&sums[..T]) {
                    *dot = _mm512_sllv_epi32(_mm512_set1_epi32(sum as i32), shift);
                }
            }
            let x = &x[..STEPS * T];
            for step in 0..STEPS {
                let w = Self::load_u32(&w[step]);
                for t in 0..T {
                    dots[t] = _mm512_dpbusd_epi32(dots[t], w, _mm512_set1_epi32(x[step * T + t] as i32));
                }
            }
            let mut floats = [_mm512_setzero_ps(); T];
            for t in 0..T {
                floats[t] = _mm512_cvtepi32_ps(dots[t]);
            }
            floats
        }
    }

    #[inline(always)]
    fn add_dots(mut sum: __m512i, w: [__m512i; 4], x: &[u32; 4], _: Bias) -> __m512i {
        for i in 0..4 {
            // SAFETY: `run` requires AVX-512 with VNNI.
            sum = unsafe { _mm512_dpbusd_epi32(sum, w[i], _mm512_set1_epi32(x[i] as i32)) };
        }
        sum
    }

    #[inline(always)]
    fn add_bf16_pairs<const T: usize>(sums: &mut [__m512; T], w: __m512i, x: &[u32]) {
        if !BF16 {
            return add_in_two_steps::<Self, T>(sums, w, x);
        }
        let x = &x[..T];
        for t in 0..T {
            // SAFETY: `run_bf16` requires AVX-512 BF16; any bits are pairs of bf16.
            unsafe {
                let x = _mm512_set1_epi32(x[t] as i32);
                sums[t] = _mm512_dpbf16_ps(
                    sums[t],
                    std::mem::transmute::<__m512i, __m512bh>(w),
                    std::mem::transmute::<__m512i, __m512bh>(x),
                );
            }
        }
    }
}

/// 0 to 15.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn lane_numbers() -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) }
}

/// Sixteen bytes at `at` of rows `i`, `i + 4`, `i + 8` and `i + 12`.
///
/// # Safety
/// The processor has AVX-512, and the rows have the bytes.
#[inline(always)]
unsafe fn four_rows(rows: &Rows, i: usize, at: usize) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { join(xmm(rows, i, at), xmm(rows, i + 4, at), xmm(rows, i + 8, at), xmm(rows, i + 12, at)) }
}

/// Four quarters as one vector.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn join(a: __m128i, b: __m128i, c: __m128i, d: __m128i) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
        let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    }
}

/// Each float rounded to its upper half, ties to even; NaN stays NaN.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn round_bf16(x: __m512) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000))
    }
}
