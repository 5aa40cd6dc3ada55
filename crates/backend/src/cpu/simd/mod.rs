//! Sixteen lanes of f32 or u32, whatever the processor makes of them.
//!
//! Kernels are written once over [`Simd`] and compiled once for each
//! instruction set. A lane's result depends on that lane's inputs alone, and
//! the order of operations is the kernel's, so that results do not depend on
//! what else is computed beside them. Instruction sets differ in whether
//! [`Simd::mul_add`] rounds once or twice.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::Isa;

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen words in memory.
pub type Words = [u32; LANES];

/// Fields of the blocks of sixteen rows, wherever they lie.
pub trait Fields<S: Simd>: Copy {
    /// The word at `at` bytes of each row's block.
    ///
    /// # Safety
    /// The blocks have four bytes there.
    unsafe fn word(self, at: usize) -> S::U32;

    /// The half at `at` bytes of each row's block, as a float.
    ///
    /// # Safety
    /// The blocks have four bytes there, or two at their end.
    unsafe fn half(self, at: usize) -> S::F32;

    /// The four words at `at` bytes of each row's block.
    ///
    /// # Safety
    /// The blocks have sixteen bytes there.
    unsafe fn columns(self, at: usize) -> [S::U32; 4];
}

/// Blocks in their rows.
#[derive(Debug, Clone, Copy)]
pub struct InRows<'a> {
    /// The rows.
    pub rows: &'a Rows,
    /// Where in each row the block starts.
    pub start: usize,
    /// Bytes a block.
    pub bytes: usize,
}

impl<S: Simd> Fields<S> for InRows<'_> {
    #[inline(always)]
    unsafe fn word(self, at: usize) -> S::U32 {
        // SAFETY: the caller's promise.
        unsafe { S::words(self.rows, self.start + at) }
    }

    #[inline(always)]
    unsafe fn half(self, at: usize) -> S::F32 {
        // SAFETY: the caller's promise; at a block's end the word before is read.
        unsafe {
            if at + 4 <= self.bytes {
                S::from_f16(S::words(self.rows, self.start + at))
            } else {
                S::from_f16(S::shr::<16>(S::words(self.rows, self.start + at - 2)))
            }
        }
    }

    #[inline(always)]
    unsafe fn columns(self, at: usize) -> [S::U32; 4] {
        // SAFETY: the caller's promise.
        unsafe { S::columns(self.rows, self.start + at) }
    }
}

/// Blocks that are [interleaved](super::interleave).
#[derive(Debug, Clone, Copy)]
pub struct Together {
    /// Where they start.
    pub start: *const u8,
    /// Where in them the fields are.
    pub order: Order,
}

/// The order of a block's fields once it is interleaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As in the block.
    AsStored,
    /// `Q6_K`'s, in the order in which they are unpacked: processors fetch
    /// ahead what is read in order. For each sixteen of 32 elements, half by half:
    /// sixteen bytes of low bits, those 32 further on, and sixteen of high bits.
    Q6K,
}

impl Order {
    /// Where the bytes at `at`, in sixteens, are now.
    #[inline(always)]
    pub fn position(self, at: usize) -> usize {
        let (unit, rest) = (at / 16, at % 16);
        let unit = match self {
            Self::AsStored => unit,
            Self::Q6K => match unit {
                0..8 => (unit / 4 * 2 + unit % 2) * 3 + unit % 4 / 2,
                8..12 => (unit - 8) * 3 + 2,
                _ => unit,
            },
        };
        16 * unit + rest
    }
}

impl<S: Simd> Fields<S> for Together {
    #[inline(always)]
    unsafe fn word(self, at: usize) -> S::U32 {
        // SAFETY: the caller's promise; any 64 bytes are sixteen words.
        unsafe {
            S::load_u32(&self.start.add(LANES * self.order.position(at)).cast::<Words>().read_unaligned())
        }
    }

    #[inline(always)]
    unsafe fn half(self, at: usize) -> S::F32 {
        // SAFETY: the caller's promise.
        unsafe { S::load_f16(&*self.start.add(LANES * self.order.position(at)).cast::<[u8; 2 * LANES]>()) }
    }

    #[inline(always)]
    unsafe fn columns(self, at: usize) -> [S::U32; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                Fields::<S>::word(self, at),
                Fields::<S>::word(self, at + 4),
                Fields::<S>::word(self, at + 8),
                Fields::<S>::word(self, at + 12),
            ]
        }
    }
}

/// Where sixteen rows of weights start: at even distances.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Rows 0, 4, 8 and 12: the others are found from these with few registers.
    quarters: [*const u8; 4],
    stride: usize,
}

impl Rows {
    /// Sixteen rows, the first at `base`, each `stride` bytes after the one before.
    pub fn new(base: *const u8, stride: usize) -> Self {
        Self { quarters: std::array::from_fn(|i| base.wrapping_add(4 * i * stride)), stride }
    }

    /// `at` bytes into row `i`.
    #[inline(always)]
    pub fn at(&self, i: usize, at: usize) -> *const u8 {
        self.quarters[i / 4].wrapping_add(at).wrapping_add(i % 4 * self.stride)
    }
}

/// How unsigned bytes stand for a format's integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bias {
    /// `1 << shift` was added to signed integers.
    pub shift: u32,
    /// The largest byte.
    pub largest: u8,
}

/// Vector operations of one instruction set.
pub trait Simd: Copy {
    /// Sixteen f32.
    type F32: Copy;
    /// Sixteen u32; also 64 bytes, the lowest of each word first.
    type U32: Copy;

    /// All lanes `x`.
    fn splat(x: f32) -> Self::F32;
    /// Sixteen values.
    fn load(x: &[f32; LANES]) -> Self::F32;
    /// Sixteen halves, little-endian.
    fn load_f16(x: &[u8; 2 * LANES]) -> Self::F32;
    /// Sixteen bfloats, little-endian.
    fn load_bf16(x: &[u8; 2 * LANES]) -> Self::F32;
    /// Sixteen signed bytes.
    #[inline(always)]
    fn load_i8(x: &[u8; LANES]) -> Self::F32 {
        let mut floats = [0.0; LANES];
        for (float, &byte) in floats.iter_mut().zip(x) {
            *float = f32::from(byte as i8);
        }
        Self::load(&floats)
    }
    /// Sixteen numbers as [`crate::KvFormat::Fp8`] stores them.
    #[inline(always)]
    fn load_e4m3(x: &[u8; LANES]) -> Self::F32 {
        // The fields of an IEEE half, whose exponent is biased by 8 more.
        let mut halves = [0; LANES];
        for (half, &byte) in halves.iter_mut().zip(x) {
            let byte = u32::from(byte);
            *half = (byte & 0x80) << 8 | (byte & 0x7f) << 7;
        }
        Self::mul(Self::from_f16(Self::load_u32(&halves)), Self::splat(256.0))
    }
    /// Writes the lanes as halves, little-endian, ties to even.
    fn store_f16(x: Self::F32, out: &mut [u8; 2 * LANES]);
    /// Writes the lanes.
    fn store(x: Self::F32, out: &mut [f32; LANES]);
    /// Lane by lane.
    fn add(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane.
    fn mul(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane the larger; `b` where `a` is NaN.
    fn max(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane the smaller; `b` where `a` is NaN.
    fn min(a: Self::F32, b: Self::F32) -> Self::F32;
    /// Lane by lane.
    fn div(a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the processor can.
    fn mul_add(a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// Lanes `i + i+8`, then `i + i+4`, `i + i+2`, `i + i+1`.
    fn sum(x: Self::F32) -> f32;

    /// The largest lane, NaN left aside.
    fn largest(x: Self::F32) -> f32;
    /// The lanes' bits.
    fn bits(x: Self::F32) -> Self::U32;

    /// All lanes `x`.
    fn splat_u32(x: u32) -> Self::U32;
    /// Sixteen words.
    fn load_u32(x: &Words) -> Self::U32;
    /// Writes the lanes.
    fn store_u32(x: Self::U32, out: &mut Words);
    /// The lowest byte of each word.
    fn low_bytes(x: Self::U32) -> [u8; LANES];
    /// Bitwise.
    fn and(a: Self::U32, b: Self::U32) -> Self::U32;
    /// Bitwise.
    fn or(a: Self::U32, b: Self::U32) -> Self::U32;
    /// Bitwise.
    fn xor(a: Self::U32, b: Self::U32) -> Self::U32;
    /// Each word up by `N` bits.
    fn shl<const N: u32>(x: Self::U32) -> Self::U32;
    /// Each word down by `N` bits, zeros from above.
    fn shr<const N: u32>(x: Self::U32) -> Self::U32;
    /// Each word down by `N` bits, the sign from above.
    fn sar<const N: u32>(x: Self::U32) -> Self::U32;
    /// The sums, without what overflows.
    fn add_u32(a: Self::U32, b: Self::U32) -> Self::U32;
    /// The low words of the products.
    fn mul_u32(a: Self::U32, b: Self::U32) -> Self::U32;
    /// Each word as a signed integer, rounded.
    fn from_i32(x: Self::U32) -> Self::F32;
    /// Each word's bits as a float.
    fn from_bits(x: Self::U32) -> Self::F32;
    /// Each word's lower half, an IEEE half.
    fn from_f16(x: Self::U32) -> Self::F32;
    /// Two vectors rounded to bf16, `low` in the lower halves; NaN stays NaN.
    fn pair_bf16(low: Self::F32, high: Self::F32) -> Self::U32;

    /// Two vectors rounded to bf16, one after the other; NaN stays NaN.
    #[inline(always)]
    fn pack_bf16(first: Self::F32, second: Self::F32) -> Self::U32 {
        let mut floats = [[0.0; LANES]; 2];
        Self::store(first, &mut floats[0]);
        Self::store(second, &mut floats[1]);
        let (mut low, mut high) = ([0.0; LANES], [0.0; LANES]);
        for (i, &[a, b]) in floats.as_flattened().as_chunks::<2>().0.iter().enumerate() {
            (low[i], high[i]) = (a, b);
        }
        Self::pair_bf16(Self::load(&low), Self::load(&high))
    }

    /// The word at `at` bytes of each row.
    ///
    /// # Safety
    /// Each row has four bytes there.
    unsafe fn words(rows: &Rows, at: usize) -> Self::U32;

    /// The four words at `at` bytes of each row.
    ///
    /// # Safety
    /// Each row has sixteen bytes there.
    unsafe fn columns(rows: &Rows, at: usize) -> [Self::U32; 4];

    /// For each of `T` rows of activations the exact sum of products of lane
    /// `r`'s bytes of `w` (the row's weights) with `x`, whose word
    /// `step * T + t` has the signed bytes of row `t` that belong to `w[step]`.
    /// With `BIASED`, `sums[t]` is minus the sum of those bytes.
    fn dots<const STEPS: usize, const T: usize, const BIASED: bool>(
        w: &[Words; STEPS],
        x: &[u32],
        sums: &[u32],
        bias: Bias,
    ) -> [Self::F32; T];

    /// What [`Simd::add_dots`] starts from to give what [`Simd::dots`] does with
    /// `BIASED`: `minus_sum` is minus the sum of all activations' bytes.
    #[inline(always)]
    fn start(minus_sum: u32, bias: Bias) -> Self::U32 {
        Self::splat_u32(minus_sum << bias.shift)
    }

    /// Each lane plus the exact dot products of its bytes of each `w` with those
    /// of its word of `x`; without an offset from a [`Simd::start`] on.
    fn add_dots(sum: Self::U32, w: [Self::U32; 4], x: &[u32; 4], bias: Bias) -> Self::U32;

    /// `sums[t] += ` the products of both bf16 of each lane of `w` with both of
    /// `x[t]`: here one after the other, as f32.
    #[inline(always)]
    fn add_bf16_pairs<const T: usize>(sums: &mut [Self::F32; T], w: Self::U32, x: &[u32]) {
        add_in_two_steps::<Self, T>(sums, w, x);
    }
}

/// As [`Simd::add_bf16_pairs`], without an instruction for it.
#[inline(always)]
fn add_in_two_steps<S: Simd, const T: usize>(sums: &mut [S::F32; T], w: S::U32, x: &[u32]) {
    let low = S::from_bits(S::shl::<16>(w));
    let high = S::from_bits(S::and(w, S::splat_u32(0xffff_0000)));
    for (sum, x) in sums.iter_mut().zip(&x[..T]) {
        *sum = S::mul_add(low, S::splat(f32::from_bits(x << 16)), *sum);
        *sum = S::mul_add(high, S::splat(f32::from_bits(x & 0xffff_0000)), *sum);
    }
}

/// A piece of work written over [`Simd`]. Implementations of `run` must be
/// `#[inline(always)]`, so that they are compiled for the instruction set of
/// the function that calls them. (Closures are not: what they call may be
/// compiled without it.)
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
        #[cfg(target_arch = "x86_64")]
        Isa::AmxEmulated => kernel.run::<scalar::Scalar>(),
        // SAFETY: `Isa::choose` gives only what the processor has.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Amx => unsafe { avx512::run_bf16(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => unsafe { neon::run(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDotprod => unsafe { neon::run_dotprod(kernel) },
    }
}

#[cfg(test)]
mod tests;
