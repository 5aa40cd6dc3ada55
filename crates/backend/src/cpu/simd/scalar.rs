//! Plain Rust, which the compiler vectorises as far as the architecture's
//! baseline goes.

use half::f16;

use super::{CHUNK, Chunk, LANES, Simd};

/// No particular instruction set.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Simd for Scalar {
    type F32 = [f32; LANES];

    #[inline(always)]
    fn splat(x: f32) -> Self::F32 {
        [x; LANES]
    }

    #[inline(always)]
    fn load(x: &[f32; LANES]) -> Self::F32 {
        *x
    }

    #[inline(always)]
    fn load_f16(x: &[u8; 2 * LANES]) -> Self::F32 {
        std::array::from_fn(|i| f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn load_bf16(x: &[u8; 2 * LANES]) -> Self::F32 {
        std::array::from_fn(|i| f32::from_bits(u32::from(u16::from_le_bytes([x[2 * i], x[2 * i + 1]])) << 16))
    }

    #[inline(always)]
    fn store(x: Self::F32, out: &mut [f32; LANES]) {
        *out = x;
    }

    #[inline(always)]
    fn add(a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn mul(a: Self::F32, b: Self::F32) -> Self::F32 {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn sum(mut x: Self::F32) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] += x[i + half];
            }
        }
        x[0]
    }

    #[inline(always)]
    fn dot(w: &[i8; CHUNK], x: &Chunk) -> Self::F32 {
        std::array::from_fn(|lane| {
            let dot: i32 = (4 * lane..4 * lane + 4).map(|i| i32::from(w[i]) * i32::from(x.q[i])).sum();
            dot as f32
        })
    }

    #[inline(always)]
    fn widen_product(a: &[f32; 4], b: &[f32; 4]) -> Self::F32 {
        std::array::from_fn(|i| a[i / 4] * b[i / 4])
    }

    #[inline(always)]
    fn spread_product(a: &[f32; 4], b: &[f32; 4]) -> Self::F32 {
        std::array::from_fn(|i| if i % 4 == 0 { a[i / 4] * b[i / 4] } else { 0.0 })
    }
}
