//! Linear maps: weight rows unpacked once, then multiplied with every row of
//! activations.
//!
//! An output is a function of its weight row and its activation row alone:
//! sixteen partial sums over the row in order, then one tree. So it does not
//! depend on how many rows there are, or which thread computes it.

use std::marker::PhantomData;
use std::ops::Range;

use gguf::Format;
use gguf::format::{Block, Float, Visitor, blocks};

use super::activations::Activations;
use super::run::{Matrix, Run};
use super::shared::{Bump, Shared};
use super::simd::{CHUNK, Chunk, Kernel, LANES, Simd, dispatch};
use super::widen::widen;
use crate::{KvFormat, Weight};

/// Weight rows that are unpacked and multiplied together.
const ROWS: usize = 4;

/// Which activation rows are multiplied, and where their results go.
#[derive(Clone, Copy)]
pub enum Pairs<'a> {
    /// Row `i` to row `i`, for the first so many.
    All(usize),
    /// Pairs of activation row and output row.
    Listed(&'a [[u32; 2]]),
}

impl Pairs<'_> {
    fn len(self) -> usize {
        match self {
            Self::All(n) => n,
            Self::Listed(pairs) => pairs.len(),
        }
    }

    #[inline(always)]
    fn get(self, i: usize) -> (usize, usize) {
        match self {
            Self::All(_) => (i, i),
            Self::Listed(pairs) => (pairs[i][0] as usize, pairs[i][1] as usize),
        }
    }
}

/// What happens to the results.
#[derive(Clone, Copy)]
pub enum Store {
    /// They replace what was there.
    Set,
    /// They are scaled and added to it.
    AddScaled(f32),
}

/// Each thread's unpacked weight rows.
#[derive(Clone, Copy)]
pub struct Unpacked<'a> {
    q: Shared<'a, i8>,
    scales: Shared<'a, f32>,
    offsets: Shared<'a, f32>,
    floats: Shared<'a, f32>,
    cols: usize,
}

impl<'a> Unpacked<'a> {
    /// Room for rows of any of `weights`.
    pub fn take<'w>(
        bump: &mut Bump<'a>,
        threads: usize,
        weights: impl Iterator<Item = &'w Weight> + Clone,
    ) -> Self {
        let most = |quantised: bool| {
            let weights = weights.clone().filter(|weight| (weight.format().block_len() > 1) == quantised);
            weights.map(|weight| weight.cols().next_multiple_of(CHUNK)).max().unwrap_or(0)
        };
        let (quantised, floats) = (most(true), most(false));
        let n = threads * ROWS;
        Self {
            q: bump.take(n * quantised),
            scales: bump.take(n * quantised / 16),
            offsets: bump.take(n * quantised / 16),
            floats: bump.take(n * floats),
            cols: quantised.max(floats),
        }
    }
}

/// One linear map.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// The weight, of which `first_row..first_row + out.cols` are used.
    pub weight: &'a Weight,
    /// Where the map's rows start (experts are stacked).
    pub first_row: usize,
    /// Added to the results.
    pub bias: Option<&'a [f32]>,
    /// What is multiplied.
    pub x: Activations<'a>,
    /// Which rows of it.
    pub pairs: Pairs<'a>,
    /// Where results go.
    pub out: Matrix<'a>,
    /// How.
    pub store: Store,
    /// Room to unpack.
    pub unpacked: Unpacked<'a>,
}

impl Linear<'_> {
    /// Computes all outputs, on all threads.
    pub fn run(self, run: &mut Run<'_>) {
        let (isa, n_rows) = (run.isa, self.out.cols);
        // Some eight parts a thread, so that a slow thread does fewer.
        let grain = n_rows.div_ceil(8 * run.pool.threads()).next_multiple_of(ROWS);
        run.pool.for_each_range(n_rows, grain, |thread, rows| {
            self.weight.format().visit(Part { linear: &self, isa, thread, rows });
        });
    }

    /// Stores the results of one activation row with weight rows `first..`.
    #[inline(always)]
    fn store(&self, out_row: usize, first: usize, results: &[f32]) {
        // SAFETY: threads have disjoint weight rows, hence disjoint columns, and
        // nobody reads the output before the loop is over.
        let out = unsafe { self.out.part(out_row, first, results.len()) };
        for (i, (out, &result)) in out.iter_mut().zip(results).enumerate() {
            let result = self.bias.map_or(result, |bias| result + bias[first + i]);
            match self.store {
                Store::Set => *out = result,
                Store::AddScaled(scale) => *out += scale * result,
            }
        }
    }
}

/// One thread's share, on its way to code compiled for format and processor.
struct Part<'a> {
    linear: &'a Linear<'a>,
    isa: super::Isa,
    thread: usize,
    rows: Range<usize>,
}

impl Visitor for Part<'_> {
    type Output = ();

    fn float<F: Float>(self) {
        let format = match F::FORMAT {
            Format::F16 => KvFormat::F16,
            Format::BF16 => KvFormat::BF16,
            _ => KvFormat::F32,
        };
        dispatch(self.isa, FloatPart { part: self, format });
    }

    fn block<B: Block>(self) {
        dispatch(self.isa, BlockPart::<B> { part: self, format: PhantomData });
    }

    fn opaque(self) {
        unreachable!("weights of listed formats are refused when they are loaded");
    }
}

struct BlockPart<'a, B> {
    part: Part<'a>,
    format: PhantomData<B>,
}

impl<B: Block> Kernel for BlockPart<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Part { linear, thread, rows, .. } = self.part;
        let cols = linear.weight.cols();
        let stride = cols.next_multiple_of(CHUNK);
        debug_assert!(stride <= linear.unpacked.cols, "room was taken for this weight");
        let at = thread * ROWS * stride;
        // SAFETY: each thread has its own part.
        let q = unsafe { linear.unpacked.q.write(at, ROWS * stride) };
        // SAFETY: as above.
        let scales = unsafe { linear.unpacked.scales.write(at / 16, ROWS * stride / 16) };
        // SAFETY: as above.
        let offsets = unsafe { linear.unpacked.offsets.write(at / 16, ROWS * stride / 16) };
        for first in rows.clone().step_by(ROWS) {
            let n = ROWS.min(rows.end - first);
            for r in 0..n {
                let bytes = linear.weight.row(linear.first_row + first + r);
                let groups = r * stride / 16..(r + 1) * stride / 16;
                let q = &mut q[r * stride..(r + 1) * stride];
                unpack_row::<B>(bytes, cols, q, &mut scales[groups.clone()], &mut offsets[groups]);
            }
            for i in 0..linear.pairs.len() {
                let (x_row, out_row) = linear.pairs.get(i);
                // SAFETY: the activations are prepared.
                let x = unsafe { linear.x.chunks(x_row) };
                let results = dot_blocks::<B, S>(q, scales, offsets, x);
                linear.store(out_row, first, &results[..n]);
            }
        }
    }
}

/// Unpacks a row into integers, and a scale and offset for each 16; zero beyond `cols`.
#[inline(always)]
fn unpack_row<B: Block>(bytes: &[u8], cols: usize, q: &mut [i8], scales: &mut [f32], offsets: &mut [f32]) {
    let blocks = blocks::<B>(bytes).expect("a weight's rows are whole blocks");
    let repeat = B::GROUP / 16;
    for (i, block) in blocks.iter().enumerate() {
        let q = &mut q[i * B::LEN..(i + 1) * B::LEN];
        let groups = i * B::LEN / 16..(i + 1) * B::LEN / 16;
        let (scales, offsets) = (&mut scales[groups.clone()], &mut offsets[groups]);
        block.unpack(q, scales, offsets);
        // From one for each group to one for each 16, from the back.
        for j in (0..B::LEN / 16).rev() {
            scales[j] = scales[j / repeat];
            if B::HAS_OFFSET {
                offsets[j] = offsets[j / repeat];
            }
        }
    }
    q[cols..].fill(0);
    scales[cols / 16..].fill(0.0);
    offsets[cols / 16..].fill(0.0);
}

/// The dot products of unpacked rows with one row of activations.
#[inline(always)]
fn dot_blocks<B: Block, S: Simd>(q: &[i8], scales: &[f32], offsets: &[f32], x: &[Chunk]) -> [f32; ROWS] {
    let n = x.len();
    let (q, scales, offsets) =
        (q.as_chunks::<CHUNK>().0, scales.as_chunks::<4>().0, offsets.as_chunks::<4>().0);
    let row = |r: usize| (&q[r * n..][..n], &scales[r * n..][..n], &offsets[r * n..][..n]);
    let rows: [_; ROWS] = std::array::from_fn(row);
    let mut sums = [S::splat(0.0); ROWS];
    for (i, x) in x.iter().enumerate() {
        for (sum, (q, scales, offsets)) in sums.iter_mut().zip(rows) {
            *sum = S::add_product(*sum, S::widen_product(&scales[i], &x.scales), S::dot(&q[i], x));
            if B::HAS_OFFSET {
                *sum = S::add(*sum, S::spread_product(&offsets[i], &x.sums));
            }
        }
    }
    sum_each::<S>(sums)
}

struct FloatPart<'a> {
    part: Part<'a>,
    /// Keys and values come in the same formats.
    format: KvFormat,
}

impl Kernel for FloatPart<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Part { linear, thread, rows, .. } = self.part;
        let stride = linear.weight.cols().next_multiple_of(LANES);
        // SAFETY: each thread has its own part.
        let w = unsafe { linear.unpacked.floats.write(thread * ROWS * stride, ROWS * stride) };
        for first in rows.clone().step_by(ROWS) {
            let n = ROWS.min(rows.end - first);
            for (r, w) in w.chunks_exact_mut(stride).take(n).enumerate() {
                let bytes = linear.weight.row(linear.first_row + first + r);
                widen::<S>(self.format, bytes, 0, 1, linear.weight.cols(), w);
            }
            for i in 0..linear.pairs.len() {
                let (x_row, out_row) = linear.pairs.get(i);
                // SAFETY: the activations are prepared.
                let x = unsafe { linear.x.floats(x_row) };
                let results = dot_floats::<S>(w, x);
                linear.store(out_row, first, &results[..n]);
            }
        }
    }
}

/// The dot products of rows of floats with one row of activations.
#[inline(always)]
fn dot_floats<S: Simd>(w: &[f32], x: &[f32]) -> [f32; ROWS] {
    let x = x.as_chunks::<LANES>().0;
    let w = w.as_chunks::<LANES>().0;
    let rows: [&[[f32; LANES]]; ROWS] = std::array::from_fn(|r| &w[r * x.len()..][..x.len()]);
    let mut sums = [S::splat(0.0); ROWS];
    for (i, x) in x.iter().enumerate() {
        let x = S::load(x);
        for (sum, w) in sums.iter_mut().zip(rows) {
            *sum = S::add_product(*sum, S::load(&w[i]), x);
        }
    }
    sum_each::<S>(sums)
}

/// Each vector's sum. (A loop: `map` would call `S::sum` outside the code that
/// is compiled for the instruction set.)
#[inline(always)]
fn sum_each<S: Simd>(vectors: [S::F32; ROWS]) -> [f32; ROWS] {
    let mut sums = [0.0; ROWS];
    for (sum, vector) in sums.iter_mut().zip(vectors) {
        *sum = S::sum(vector);
    }
    sums
}
