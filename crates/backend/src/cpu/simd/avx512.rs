//! AVX-512 with VNNI: a vector is one register.

use std::arch::x86_64::*;

use super::avx2::sum8;
use super::{CHUNK, Chunk, Kernel, LANES, Simd};

/// AVX-512 F, BW, VL, DQ and VNNI. Only [`run`] uses it, on processors that have them.
#[derive(Clone, Copy)]
pub struct Avx512;

/// Runs `kernel` with these instructions.
///
/// # Safety
/// The processor has them.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

/// The products of four pairs, in the lowest lanes.
#[inline(always)]
fn product(a: &[f32; 4], b: &[f32; 4]) -> __m512 {
    // SAFETY: both loads are inside their arrays; `run` requires AVX-512.
    unsafe { _mm512_castps128_ps512(_mm_mul_ps(_mm_loadu_ps(a.as_ptr()), _mm_loadu_ps(b.as_ptr()))) }
}

/// Which product each lane takes.
#[inline(always)]
fn quarters() -> __m512i {
    // SAFETY: `run` requires AVX-512.
    unsafe { _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3) }
}

impl Simd for Avx512 {
    type F32 = __m512;

    #[inline(always)]
    fn splat(x: f32) -> Self::F32 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self::F32 {
        // SAFETY: the array has sixteen elements; `run` requires AVX-512.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(x: &[u8; 2 * LANES]) -> Self::F32 {
        // SAFETY: the array has 32 bytes; `run` requires AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(x: &[u8; 2 * LANES]) -> Self::F32 {
        // SAFETY: the array has 32 bytes; `run` requires AVX-512.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn store(x: Self::F32, out: &mut [f32; LANES]) {
        // SAFETY: the array has sixteen elements; `run` requires AVX-512.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn add(a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn mul(a: Self::F32, b: Self::F32) -> Self::F32 {
        // SAFETY: `run` requires AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn sum(x: Self::F32) -> f32 {
        // SAFETY: `run` requires AVX-512, which includes AVX2.
        unsafe { sum8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x))) }
    }

    #[inline(always)]
    fn dot(w: &[i8; CHUNK], x: &Chunk) -> Self::F32 {
        // SAFETY: both arrays have 64 bytes, `Chunk` is aligned to 64; `run` requires AVX-512.
        unsafe {
            // VNNI multiplies unsigned by signed: flipping the top bit adds 128,
            // which the shift takes off again.
            let w = _mm512_xor_si512(_mm512_loadu_si512(w.as_ptr().cast()), _mm512_set1_epi8(-128));
            let shift = _mm512_load_si512(x.shift.as_ptr().cast());
            let x = _mm512_load_si512(x.q.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(shift, w, x))
        }
    }

    #[inline(always)]
    fn widen_product(a: &[f32; 4], b: &[f32; 4]) -> Self::F32 {
        // SAFETY: `run` requires AVX-512. Only the four defined lanes are selected.
        unsafe { _mm512_permutexvar_ps(quarters(), product(a, b)) }
    }

    #[inline(always)]
    fn spread_product(a: &[f32; 4], b: &[f32; 4]) -> Self::F32 {
        // SAFETY: as in `widen_product`.
        unsafe { _mm512_maskz_permutexvar_ps(0x1111, quarters(), product(a, b)) }
    }
}
