//! A single row of activations: weights are multiplied as they are unpacked,
//! without a panel in between. Sums are those of [`super::tile`] to the bit.

use std::marker::PhantomData;

use gguf::Format;
use gguf::format::{Block, block};

use super::activations::BLOCK_WORDS;
use super::interleave::order;
use super::panel::{From, bias_of, widen};
use super::simd::{Bias, Fields, InRows, Kernel, LANES, Order, Simd, Together};
use super::tile::FLOATS_TOGETHER;
use super::unpack::{Sink, unpack};

/// Multiplies sixteen whole rows of a block format that has a short cut.
pub struct MultiplyBlocks<'a, B> {
    /// The rows.
    from: From<'a>,
    /// The words of one row of activations.
    x: &'a [u32],
    format: PhantomData<B>,
}

impl<'a, B: Block> MultiplyBlocks<'a, B> {
    /// `x` has as many columns as the rows.
    pub fn new(from: From<'a>, x: &'a [u32]) -> Self {
        Self { from, x, format: PhantomData }
    }
}

impl<B: Block> Kernel for MultiplyBlocks<'_, B> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self) -> [f32; LANES] {
        let bytes = size_of::<B>();
        let mut sums = S::splat(0.0);
        for (i, x) in self.x.chunks_exact(B::LEN / 32 * BLOCK_WORDS).enumerate() {
            match self.from {
                From::Rows(ref rows) => {
                    let from = InRows { rows, start: i * bytes, bytes };
                    sums = multiply_block::<B, S>(from, x, sums);
                }
                From::Panel(panel) => {
                    let block = &panel[i * bytes * LANES..][..bytes * LANES];
                    sums = multiply_block::<B, S>(
                        Together { start: block.as_ptr(), order: order(B::FORMAT) },
                        x,
                        sums,
                    );
                }
            }
        }
        let mut out = [0.0; LANES];
        S::store(sums, &mut out);
        out
    }
}

/// Adds the products of sixteen blocks with the words of their columns.
#[inline(always)]
fn multiply_block<B: Block, S: Simd>(from: impl Fields<S>, x: &[u32], mut sums: S::F32) -> S::F32 {
    let bias = const { bias_of::<B>() };
    let mut products = Products::<B, S>::new(x, bias);
    // SAFETY: the caller has as many blocks as there are columns, of a format with a short cut.
    unsafe { unpack::<B, S>(from, &mut products) };
    for g in 0..B::GROUPS {
        let x = &x[g * B::GROUP / 32 * BLOCK_WORDS..][..BLOCK_WORDS];
        let scale = S::mul(products.scales[g], S::splat(f32::from_bits(x[8])));
        sums = S::mul_add(S::from_i32(products.dots[g]), scale, sums);
        if B::HAS_OFFSET {
            let of_values = if B::GROUP == 32 { x[10] } else { x[13 + g % 2] };
            sums = S::mul_add(products.offsets[g], S::splat(f32::from_bits(of_values)), sums);
        }
    }
    sums
}

/// The dot products of each group, while columns come.
struct Products<'a, B, S: Simd> {
    x: &'a [u32],
    bias: Bias,
    dots: [S::U32; block::MAX_GROUPS],
    scales: [S::F32; block::MAX_GROUPS],
    offsets: [S::F32; block::MAX_GROUPS],
    format: PhantomData<B>,
}

impl<'a, B: Block, S: Simd> Products<'a, B, S> {
    #[inline(always)]
    fn new(x: &'a [u32], bias: Bias) -> Self {
        let mut dots = [S::splat_u32(0); block::MAX_GROUPS];
        if !B::HAS_OFFSET {
            for (g, dot) in dots.iter_mut().take(B::GROUPS).enumerate() {
                let x = &x[g * B::GROUP / 32 * BLOCK_WORDS..][..BLOCK_WORDS];
                let minus_sum = if B::GROUP == 32 { x[9] } else { x[11 + g % 2] };
                *dot = S::start(minus_sum, bias);
            }
        }
        let zeros = [S::splat(0.0); block::MAX_GROUPS];
        Self { x, bias, dots, scales: zeros, offsets: zeros, format: PhantomData }
    }
}

impl<B: Block, S: Simd> Sink<S> for Products<'_, B, S> {
    #[inline(always)]
    fn columns(&mut self, at: usize, w: [S::U32; 4]) {
        let x = self.x[at / 8 * BLOCK_WORDS + at % 8..].first_chunk().expect("a block's words are whole");
        let dot = &mut self.dots[at * 4 / B::GROUP];
        *dot = S::add_dots(*dot, w, x, self.bias);
    }

    #[inline(always)]
    fn scale(&mut self, group: usize, scale: S::F32) {
        self.scales[group] = scale;
    }

    #[inline(always)]
    fn offset(&mut self, group: usize, offset: S::F32) {
        self.offsets[group] = offset;
    }
}

/// Multiplies sixteen whole rows of F16 or BF16 with one row of f32.
pub struct MultiplyHalves<'a> {
    /// F16 or BF16.
    pub format: Format,
    /// The rows.
    pub from: From<'a>,
    /// As many as the rows have columns, a multiple of eight.
    pub x: &'a [u32],
}

impl Kernel for MultiplyHalves<'_> {
    type Output = [f32; LANES];

    #[inline(always)]
    fn run<S: Simd>(self) -> [f32; LANES] {
        let sums = match (self.format, self.from) {
            (Format::BF16, From::Rows(rows)) => {
                halves::<S, true>(InRows { rows: &rows, start: 0, bytes: usize::MAX }, self.x)
            }
            (Format::BF16, From::Panel(panel)) => {
                halves::<S, true>(Together { start: panel.as_ptr(), order: Order::AsStored }, self.x)
            }
            (_, From::Rows(rows)) => {
                halves::<S, false>(InRows { rows: &rows, start: 0, bytes: usize::MAX }, self.x)
            }
            (_, From::Panel(panel)) => {
                halves::<S, false>(Together { start: panel.as_ptr(), order: Order::AsStored }, self.x)
            }
        };
        let mut out = [0.0; LANES];
        S::store(sums, &mut out);
        out
    }
}

#[inline(always)]
fn halves<S: Simd, const BF16: bool>(from: impl Fields<S>, x: &[u32]) -> S::F32 {
    let mut sums = S::splat(0.0);
    for (i, x) in x.chunks(FLOATS_TOGETHER).enumerate() {
        let (mut even, mut odd) = (S::splat(0.0), S::splat(0.0));
        for (j, x) in x.as_chunks::<8>().0.iter().enumerate() {
            // SAFETY: the rows have as many columns as `x`, two bytes each.
            let words = unsafe { from.columns(2 * (i * FLOATS_TOGETHER + 8 * j)) };
            for k in 0..4 {
                let [low, high] = widen::<S, BF16>(words[k]);
                even = S::mul_add(low, S::splat(f32::from_bits(x[2 * k])), even);
                odd = S::mul_add(high, S::splat(f32::from_bits(x[2 * k + 1])), odd);
            }
        }
        sums = S::add(sums, S::add(even, odd));
    }
    sums
}
