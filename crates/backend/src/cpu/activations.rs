//! The inputs of linear maps: normalised or gated, and rounded to 8 bits once
//! for all weight rows that read them.

use super::math::{gelu_tanh, silu};
use super::run::{Matrix, Run};
use super::shared::{Bump, Shared};
use super::simd::{CHUNK, Chunk, Kernel, LANES, Simd, dispatch};
use crate::Weight;
use crate::kernels::swiglu_linear_add::Activation;

/// Rows of activations, in the forms that the weights want.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    cols: usize,
    /// `[rows, cols rounded up to LANES]`, zero beyond `cols`.
    floats: Shared<'a, f32>,
    /// `[rows, cols rounded up to CHUNK]`, zero beyond `cols`; empty unless some weight is quantised.
    chunks: Shared<'a, Chunk>,
    quantised: bool,
}

/// What a row is made of.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// The row itself.
    Plain(Matrix<'a>),
    /// The row normalised: weight and epsilon.
    Norm(Matrix<'a>, &'a [f32], f32),
    /// `act(gate) ⊙ up`
    Gated(Matrix<'a>, Matrix<'a>, Activation),
}

impl<'a> Activations<'a> {
    /// Room for `rows` rows that `weights` will read.
    pub fn take<'w>(
        bump: &mut Bump<'a>,
        rows: usize,
        cols: usize,
        mut weights: impl Iterator<Item = &'w Weight>,
    ) -> Self {
        let quantised = weights.any(|weight| weight.format().block_len() > 1);
        let floats = bump.take(rows.saturating_mul(cols.next_multiple_of(LANES)));
        let chunks = bump.take(if quantised { rows.saturating_mul(cols.div_ceil(CHUNK)) } else { 0 });
        Self { cols, floats, chunks, quantised }
    }

    /// Makes rows `0..n`; row `i` from row `row_of(i)` of the source.
    pub fn prepare(
        self,
        run: &mut Run<'_>,
        n: usize,
        source: Source<'a>,
        row_of: impl Fn(usize) -> usize + Sync,
    ) {
        let isa = run.isa;
        let grain = n.div_ceil(4 * run.pool.threads());
        run.pool.for_each_range(n, grain, |_, range| {
            for i in range {
                let stride = self.cols.next_multiple_of(LANES);
                let n_chunks = if self.quantised { self.cols.div_ceil(CHUNK) } else { 0 };
                // SAFETY: ranges are disjoint, so nobody else has row `i`.
                let floats = unsafe { self.floats.write(i * stride, stride) };
                // SAFETY: as above.
                let chunks = unsafe { self.chunks.write(i * n_chunks, n_chunks) };
                dispatch(isa, PrepareRow { source, row: row_of(i), cols: self.cols, floats, chunks });
            }
        });
    }

    /// Row `i` as floats, zero-padded to whole vectors.
    ///
    /// # Safety
    /// [`prepare`](Self::prepare) has returned and is not running.
    pub unsafe fn floats(self, i: usize) -> &'a [f32] {
        let stride = self.cols.next_multiple_of(LANES);
        // SAFETY: the caller's promise.
        unsafe { self.floats.read(i * stride, stride) }
    }

    /// Row `i` in 8 bits, zero-padded to whole chunks.
    ///
    /// # Safety
    /// [`prepare`](Self::prepare) has returned and is not running.
    pub unsafe fn chunks(self, i: usize) -> &'a [Chunk] {
        let n_chunks = self.cols.div_ceil(CHUNK);
        // SAFETY: the caller's promise.
        unsafe { self.chunks.read(i * n_chunks, n_chunks) }
    }
}

struct PrepareRow<'a> {
    source: Source<'a>,
    row: usize,
    cols: usize,
    floats: &'a mut [f32],
    chunks: &'a mut [Chunk],
}

impl Kernel for PrepareRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let (row, padding) = self.floats.split_at_mut(self.cols);
        padding.fill(0.0);
        match self.source {
            // SAFETY: sources are not written while activations are prepared.
            Source::Plain(x) => row.copy_from_slice(unsafe { x.row(self.row) }),
            Source::Norm(x, weight, eps) => {
                // SAFETY: as above.
                row.copy_from_slice(unsafe { x.row(self.row) });
                normalise::<S>(row, weight, eps);
            }
            Source::Gated(gate, up, activation) => {
                // SAFETY: as above.
                let (gate, up) = unsafe { (gate.row(self.row), up.row(self.row)) };
                gated(activation, gate, up, row);
            }
        }
        for (chunk, values) in self.chunks.iter_mut().zip(self.floats.chunks(CHUNK)) {
            quantise(values, chunk);
        }
    }
}

/// `x / sqrt(mean(x²) + eps) * weight`, in place.
#[inline(always)]
pub fn normalise<S: Simd>(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean_square = sum_of_squares::<S>(x) / x.len() as f32;
    let scale = 1.0 / (mean_square + eps).sqrt();
    for (x, w) in x.iter_mut().zip(weight) {
        *x = *x * scale * w;
    }
}

#[inline(always)]
fn sum_of_squares<S: Simd>(x: &[f32]) -> f32 {
    let (vectors, rest) = x.as_chunks::<LANES>();
    let mut last = [0.0; LANES];
    last[..rest.len()].copy_from_slice(rest);
    let mut sum = S::splat(0.0);
    for vector in vectors.iter().chain([&last]) {
        let x = S::load(vector);
        sum = S::add_product(sum, x, x);
    }
    S::sum(sum)
}

#[inline(always)]
fn gated(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    let values = out.iter_mut().zip(gate.iter().zip(up));
    match activation {
        Activation::Silu => values.for_each(|(out, (&gate, up))| *out = silu(gate) * up),
        Activation::GeluTanh => values.for_each(|(out, (&gate, up))| *out = gelu_tanh(gate) * up),
    }
}

/// Rounds up to 64 values; those missing are zero.
#[inline(always)]
fn quantise(values: &[f32], chunk: &mut Chunk) {
    let mut padded = [0.0; CHUNK];
    padded[..values.len()].copy_from_slice(values);
    for (half, x) in padded.as_chunks::<32>().0.iter().enumerate() {
        // The largest magnitude by its bits, among which NaN is largest of all
        // and so makes the scale, and every result, NaN.
        let largest = x.iter().fold(0, |max, x| max.max(x.abs().to_bits()));
        let largest = f32::from_bits(largest);
        // Values below this are zero to any sum they could be part of.
        let inverse = if largest > 1e-30 { 127.0 / largest } else { 0.0 };
        // Adding and subtracting 1.5 · 2²³ rounds to the nearest integer.
        const ROUND: f32 = 12_582_912.0;
        for (q, x) in chunk.q[32 * half..][..32].iter_mut().zip(x) {
            *q = ((x * inverse + ROUND) - ROUND) as i8;
        }
        chunk.scales[2 * half..][..2].fill(largest / 127.0);
    }
    for (shift, q) in chunk.shift.iter_mut().zip(chunk.q.as_chunks::<4>().0) {
        *shift = -128 * q.iter().map(|&q| i32::from(q)).sum::<i32>();
    }
    for (i, q) in chunk.q.as_chunks::<16>().0.iter().enumerate() {
        let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
        chunk.sums[i] = chunk.scales[i] * sum as f32;
    }
}
