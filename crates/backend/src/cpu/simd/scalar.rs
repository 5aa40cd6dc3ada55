//! Plain Rust, which the compiler vectorises as far as the architecture's
//! baseline goes.

use half::{bf16, f16};

use super::{Bias, LANES, Rows, Simd, Words};

/// No particular instruction set.
#[derive(Clone, Copy)]
pub struct Scalar;

/// Lane by lane.
#[inline(always)]
fn map<T: Copy, U: Copy + Default>(x: [T; LANES], f: impl Fn(T) -> U) -> [U; LANES] {
    std::array::from_fn(|i| f(x[i]))
}

/// Lane by lane.
#[inline(always)]
fn zip<T: Copy, U: Copy + Default>(a: [T; LANES], b: [T; LANES], f: impl Fn(T, T) -> U) -> [U; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Scalar {
    type F32 = [f32; LANES];
    type U32 = Words;

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
    fn store_f16(x: Self::F32, out: &mut [u8; 2 * LANES]) {
        for (x, out) in x.iter().zip(out.as_chunks_mut::<2>().0) {
            *out = f16::from_f32(*x).to_le_bytes();
        }
    }

    #[inline(always)]
    fn store(x: Self::F32, out: &mut [f32; LANES]) {
        *out = x;
    }

    #[inline(always)]
    fn add(a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn max(a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn div(a: Self::F32, b: Self::F32) -> Self::F32 {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        // Not `f32::mul_add`, which is a library call without the instruction.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
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
    fn largest(x: Self::F32) -> f32 {
        let mut largest = f32::NEG_INFINITY;
        for x in x {
            largest = if x > largest { x } else { largest };
        }
        largest
    }

    #[inline(always)]
    fn bits(x: Self::F32) -> Words {
        map(x, f32::to_bits)
    }

    #[inline(always)]
    fn low_bytes(x: Words) -> [u8; LANES] {
        map(x, |x| x as u8)
    }

    #[inline(always)]
    fn splat_u32(x: u32) -> Words {
        [x; LANES]
    }

    #[inline(always)]
    fn load_u32(x: &Words) -> Words {
        *x
    }

    #[inline(always)]
    fn store_u32(x: Words, out: &mut Words) {
        *out = x;
    }

    #[inline(always)]
    fn and(a: Words, b: Words) -> Words {
        zip(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or(a: Words, b: Words) -> Words {
        zip(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn xor(a: Words, b: Words) -> Words {
        zip(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn shl<const N: u32>(x: Words) -> Words {
        map(x, |x| x << N)
    }

    #[inline(always)]
    fn shr<const N: u32>(x: Words) -> Words {
        map(x, |x| x >> N)
    }

    #[inline(always)]
    fn sar<const N: u32>(x: Words) -> Words {
        map(x, |x| (x as i32 >> N) as u32)
    }

    #[inline(always)]
    fn add_u32(a: Words, b: Words) -> Words {
        zip(a, b, u32::wrapping_add)
    }

    #[inline(always)]
    fn mul_u32(a: Words, b: Words) -> Words {
        zip(a, b, u32::wrapping_mul)
    }

    #[inline(always)]
    fn from_i32(x: Words) -> Self::F32 {
        map(x, |x| x as i32 as f32)
    }

    #[inline(always)]
    fn from_bits(x: Words) -> Self::F32 {
        map(x, f32::from_bits)
    }

    #[inline(always)]
    fn from_f16(x: Words) -> Self::F32 {
        map(x, |x| f16::from_bits(x as u16).to_f32())
    }

    #[inline(always)]
    fn pair_bf16(low: Self::F32, high: Self::F32) -> Words {
        let bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
        zip(low, high, |low, high| bits(low) | bits(high) << 16)
    }

    #[inline(always)]
    unsafe fn words(rows: &Rows, at: usize) -> Words {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { rows.at(i, at).cast::<u32>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn columns(rows: &Rows, at: usize) -> [Words; 4] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { Self::words(rows, at + 4 * i) })
    }

    #[inline(always)]
    fn dots<const STEPS: usize, const T: usize, const BIASED: bool>(
        w: &[Words; STEPS],
        x: &[u32],
        sums: &[u32],
        bias: Bias,
    ) -> [Self::F32; T] {
        std::array::from_fn(|t| {
            let mut dots = [if BIASED { (sums[t] as i32) << bias.shift } else { 0 }; LANES];
            for (step, w) in w.iter().enumerate() {
                let x = x[step * T + t].to_le_bytes().map(|x| i32::from(x as i8));
                for (dot, w) in dots.iter_mut().zip(w) {
                    let w = w.to_le_bytes().map(i32::from);
                    *dot += w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3];
                }
            }
            map(dots, |dot| dot as f32)
        })
    }

    #[inline(always)]
    fn add_dots(mut sum: Words, w: [Words; 4], x: &[u32; 4], _: Bias) -> Words {
        for (w, x) in w.into_iter().zip(x) {
            let x = x.to_le_bytes().map(|x| i32::from(x as i8));
            sum = zip(sum, w, |sum, w| {
                let w = w.to_le_bytes().map(i32::from);
                (sum as i32 + w[0] * x[0] + w[1] * x[1] + w[2] * x[2] + w[3] * x[3]) as u32
            });
        }
        sum
    }
}
