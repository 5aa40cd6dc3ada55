//! Sixteen lanes of f32, whatever the processor makes of them.
//!
//! Kernels are written once over [`Simd`] and compiled once for each
//! instruction set. Every implementation performs the same IEEE operations in
//! the same order (no fused multiply-add, one fixed tree for sums), so that
//! all give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use super::Isa;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Elements of a [`Chunk`].
pub const CHUNK: usize = 64;

/// 64 activations, rounded to 8 bits in blocks of 32.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Chunk {
    /// The integers, −127 to 127.
    pub q: [i8; CHUNK],
    /// −128 times the sum of each four: what adding 128 to a signed factor
    /// costs, so that instructions for unsigned factors can be used.
    pub shift: [i32; LANES],
    /// What an integer is worth, for each 16.
    pub scales: [f32; 4],
    /// The sum of each 16 values, for formats with offsets.
    pub sums: [f32; 4],
}

/// Vector operations of one instruction set.
pub trait Simd: Copy {
    /// Sixteen f32.
    type F32: Copy;

    /// All lanes `x`.
    fn splat(x: f32) -> Self::F32;
    /// Sixteen values.
    fn load(x: &[f32; LANES]) -> Self::F32;
    /// Sixteen halves, little-endian.
    fn load_f16(x: &[u8; 2 * LANES]) -> Self::F32;
    /// Sixteen bfloats, little-endian.
    fn load_bf16(x: &[u8; 2 * LANES]) -> Self::F32;
    /// Writes the lanes.
    fn store(x: Self::F32, out: &mut [f32; LANES]);
    /// Lane by lane.
    fn add(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane.
    fn mul(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lanes `i + i+8`, then `i + i+4`, `i + i+2`, `i + i+1`.
    fn sum(x: Self::F32) -> f32;
    /// Lane `i`: the exact dot product of elements `4i..4i + 4`.
    fn dot(w: &[i8; CHUNK], x: &Chunk) -> Self::F32;
    /// `a[j] * b[j]` in lanes `4j..4j + 4`.
    fn widen_product(a: &[f32; 4], b: &[f32; 4]) -> Self::F32;
    /// `a[j] * b[j]` in lane `4j`, zero elsewhere.
    fn spread_product(a: &[f32; 4], b: &[f32; 4]) -> Self::F32;

    /// `sum + a * b`, rounded twice.
    #[inline(always)]
    fn add_product(sum: Self::F32, a: Self::F32, b: Self::F32) -> Self::F32 {
        Self::add(sum, Self::mul(a, b))
    }
}

/// A piece of work written over [`Simd`]. Implementations of `run` must be
/// `#[inline(always)]`, so that they are compiled for the instruction set of
/// the function that calls them.
pub trait Kernel {
    /// What it gives.
    type Output;
    /// Does the work.
    fn run<S: Simd>(self) -> Self::Output;
}

/// Runs `kernel` compiled for `isa`.
pub fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        Isa::Scalar => kernel.run::<scalar::Scalar>(),
        // SAFETY: `Isa::choose` gives only what the processor has.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::run(kernel) },
    }
}
