//! AVX2: a vector is two registers.

use std::arch::x86_64::*;

use super::{CHUNK, Chunk, Kernel, LANES, Simd};

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

/// The exact dot products of each four signed bytes. AVX2 multiplies unsigned
/// by signed: `w`'s sign moves to `x`, and since |x| ≤ 127 no pair of products
/// (at most 2 · 128 · 127) saturates 16 bits.
#[inline(always)]
fn dot4(w: &[i8; CHUNK], x: &Chunk, at: usize) -> __m256 {
    // SAFETY: `at` is 0 or 32, so the loads are inside the 64 elements; `run` requires AVX2.
    unsafe {
        let w = _mm256_loadu_si256(w.as_ptr().add(at).cast());
        let x = _mm256_load_si256(x.q.as_ptr().add(at).cast());
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// The products of four pairs.
#[inline(always)]
fn product(a: &[f32; 4], b: &[f32; 4]) -> __m256 {
    // SAFETY: both loads are inside their arrays; `run` requires AVX2.
    unsafe { _mm256_castps128_ps256(_mm_mul_ps(_mm_loadu_ps(a.as_ptr()), _mm_loadu_ps(b.as_ptr()))) }
}

impl Simd for Avx2 {
    type F32 = (__m256, __m256);

    #[inline(always)]
    fn splat(x: f32) -> Self::F32 {
        // SAFETY: `run` requires AVX2.
        let x = unsafe { _mm256_set1_ps(x) };
        (x, x)
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self::F32 {
        // SAFETY: both halves are inside the array; `run` requires AVX2.
        unsafe { (_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))) }
    }

    #[inline(always)]
    fn load_f16(x: &[u8; 2 * LANES]) -> Self::F32 {
        // SAFETY: both halves are inside the array; `run` requires F16C.
        unsafe {
            let half = |at| _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(at).cast()));
            (half(0), half(16))
        }
    }

    #[inline(always)]
    fn load_bf16(x: &[u8; 2 * LANES]) -> Self::F32 {
        // SAFETY: both halves are inside the array; `run` requires AVX2.
        unsafe {
            let half = |at| {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            };
            (half(0), half(16))
        }
    }

    #[inline(always)]
    fn store(x: Self::F32, out: &mut [f32; LANES]) {
        // SAFETY: both halves are inside the array; `run` requires AVX2.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), x.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x.1);
        }
    }

    #[inline(always)]
    fn add(a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: `run` requires AVX2.
        unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: `run` requires AVX2.
        unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn sum(x: Self::F32) -> f32 {
        // SAFETY: `run` requires AVX2.
        unsafe { sum8(_mm256_add_ps(x.0, x.1)) }
    }

    #[inline(always)]
    fn dot(w: &[i8; CHUNK], x: &Chunk) -> Self::F32 {
        (dot4(w, x, 0), dot4(w, x, 32))
    }

    #[inline(always)]
    fn widen_product(a: &[f32; 4], b: &[f32; 4]) -> Self::F32 {
        let product = product(a, b);
        // SAFETY: `run` requires AVX2. The upper half of `product` is not selected.
        unsafe {
            let low = _mm256_permutevar8x32_ps(product, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
            let high = _mm256_permutevar8x32_ps(product, _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3));
            (low, high)
        }
    }

    #[inline(always)]
    fn spread_product(a: &[f32; 4], b: &[f32; 4]) -> Self::F32 {
        let (low, high) = Self::widen_product(a, b);
        // SAFETY: `run` requires AVX2.
        unsafe {
            let zero = _mm256_setzero_ps();
            (_mm256_blend_ps::<0x11>(zero, low), _mm256_blend_ps::<0x11>(zero, high))
        }
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
