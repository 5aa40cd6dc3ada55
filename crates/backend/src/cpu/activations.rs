//! The inputs of linear maps: normalised or gated, and rounded and packed once
//! for all weight rows that read them.

use std::ops::Range;

use super::linear::form;
use super::math::{gelu_tanh, silu, silu_lanes};
use super::run::{Matrix, RowSet, Run, Sizes};
use super::shared::{Bump, Shared};
use super::simd::{Kernel, LANES, Simd, dispatch};
use crate::kernels::swiglu_linear_add::Activation;
use crate::{Role, Weight};

/// How a linear map's kernel wants its inputs. Rows are packed in tiles of
/// [`TILE`], the words of a tile's rows interleaved; what is left over is a
/// smaller tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Rounded to 8 bits in blocks of 32, see [`BLOCK_WORDS`].
    Int8,
    /// f32, a word each.
    F32,
    /// bf16, two a word.
    Bf16,
    /// bf16, two a word, in [tiles](super::amx) of sixteen rows and 32 columns,
    /// those of the same rows one after the other. What rows and columns are
    /// missing in the last tile has any value, or is zero.
    Tiles,
}

/// Rows of a tile.
pub const TILE: usize = 8;

/// Rows and columns of [`Form::Tiles`].
pub const TILE_ROWS: usize = 16;
/// See [`TILE_ROWS`].
pub const TILE_COLS: usize = 32;

/// Words that a row's 32 columns take in [`Form::Int8`]: eight of four integers
/// each, then what an integer is worth, minus the sum of the integers, the sum
/// of the values, both sums again for each sixteen, and one word unused.
pub const BLOCK_WORDS: usize = 16;

impl Form {
    /// Words a row of `cols` takes.
    pub fn row_words(self, cols: usize) -> usize {
        match self {
            Self::Int8 => cols / 32 * BLOCK_WORDS,
            Self::F32 => cols,
            Self::Bf16 => cols.div_ceil(2),
            Self::Tiles => cols.next_multiple_of(TILE_COLS) / 2,
        }
    }
}

/// Which forms some linear maps want of the same input.
#[derive(Debug, Clone, Copy, Default)]
struct Forms {
    int8: bool,
    f32: bool,
    bf16: bool,
    tiles: bool,
}

impl Forms {
    fn has(self, form: Form) -> bool {
        match form {
            Form::Int8 => self.int8,
            Form::F32 => self.f32,
            Form::Bf16 => self.bf16,
            Form::Tiles => self.tiles,
        }
    }
}

/// The order of [`Activations::forms`].
const ROLES: [Role; 2] = [Role::Prompt, Role::Generated];

/// Rows of activations, in the forms that the weights want.
#[derive(Clone, Copy)]
pub struct Activations<'a> {
    cols: usize,
    /// Of rows of prompts and of generated rows.
    forms: [Forms; 2],
    /// Each thread's row before it is rounded.
    row: Shared<'a, f32>,
    int8: Shared<'a, u32>,
    f32: Shared<'a, u32>,
    bf16: Shared<'a, u32>,
    tiles: Shared<'a, u32>,
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
        sizes: &Sizes<'_>,
        rows: usize,
        cols: usize,
        weights: impl Iterator<Item = &'w Weight>,
    ) -> Self {
        let mut forms = [Forms::default(); 2];
        for weight in weights {
            for (role, forms) in ROLES.into_iter().zip(&mut forms) {
                match form(weight.format(), sizes.isa, role) {
                    Form::Int8 => forms.int8 = true,
                    Form::F32 => forms.f32 = true,
                    Form::Bf16 => forms.bf16 = true,
                    Form::Tiles => forms.tiles = true,
                }
            }
        }
        let words = |form: Form| {
            // Two tiles of rows are multiplied together, whatever the second holds.
            let rows = if form == Form::Tiles { rows.saturating_add(2 * TILE_ROWS) } else { rows };
            if forms.iter().any(|forms| forms.has(form)) {
                rows.saturating_mul(form.row_words(cols))
            } else {
                0
            }
        };
        Self {
            cols,
            forms,
            row: bump.take(sizes.threads.saturating_mul(cols)),
            int8: bump.take(words(Form::Int8)),
            f32: bump.take(words(Form::F32)),
            bf16: bump.take(words(Form::Bf16)),
            tiles: bump.take(words(Form::Tiles)),
        }
    }

    /// Makes rows `segment`, packed as tiles of their own; row `segment.start + i`
    /// from row `rows[i]` of the source.
    pub fn prepare(self, run: &mut Run<'_>, segment: Range<usize>, source: Source<'a>, set: RowSet<'_>) {
        let RowSet { rows, role } = set;
        let (isa, n) = (run.isa, segment.len());
        let grain = n.div_ceil(4 * run.pool.threads()).next_multiple_of(TILE);
        run.pool.for_each_range(n, grain, |thread, range| {
            // SAFETY: each thread has its own row.
            let values = unsafe { self.row.write(thread * self.cols, self.cols) };
            dispatch(isa, PrepareRows { to: self, segment: &segment, range, source, rows, role, values });
        });
    }

    /// The words of tile `tile` of `segment`, and its number of rows.
    ///
    /// # Safety
    /// [`prepare`](Self::prepare) of the segment has returned and is not running.
    pub unsafe fn tile(self, form: Form, segment: &Range<usize>, tile: usize) -> (&'a [u32], usize) {
        let first = tile * TILE;
        let n = TILE.min(segment.len() - first);
        let words = form.row_words(self.cols);
        // SAFETY: the caller's promise.
        (unsafe { self.all(form).read((segment.start + first) * words, n * words) }, n)
    }

    fn all(self, form: Form) -> Shared<'a, u32> {
        match form {
            Form::Int8 => self.int8,
            Form::F32 => self.f32,
            Form::Bf16 => self.bf16,
            Form::Tiles => self.tiles,
        }
    }

    /// The words of [`Form::Tiles`] for rows `first..first + 16` of `segment`.
    ///
    /// # Safety
    /// [`prepare`](Self::prepare) of the segment has returned and is not running.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn tile_rows(self, segment: &Range<usize>, first: usize) -> &'a [u32] {
        let words = Form::Tiles.row_words(self.cols);
        // SAFETY: the caller's promise.
        unsafe { self.tiles.read((segment.start + first) * words, TILE_ROWS * words) }
    }
}

/// Some rows of a segment, made by one thread.
struct PrepareRows<'a, 'r> {
    to: Activations<'a>,
    segment: &'r Range<usize>,
    range: Range<usize>,
    source: Source<'a>,
    rows: &'r [u32],
    role: Role,
    values: &'r mut [f32],
}

impl Kernel for PrepareRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { to, segment, range, source, rows, role, values } = self;
        let forms = to.forms[if role == ROLES[0] { 0 } else { 1 }];
        for i in range {
            make::<S>(source, rows[i] as usize, values);
            let first = i / TILE * TILE;
            let (t, n) = (i - first, TILE.min(segment.len() - first));
            for form in [Form::Int8, Form::F32, Form::Bf16, Form::Tiles] {
                if !forms.has(form) {
                    continue;
                }
                let words = form.row_words(to.cols);
                if form == Form::Tiles {
                    let first = i / TILE_ROWS * TILE_ROWS;
                    let tiles = to.tiles.range((segment.start + first) * words, TILE_ROWS * words);
                    put_tiles::<S>(values, tiles, i - first);
                    continue;
                }
                let tile = to.all(form).range((segment.start + first) * words, n * words);
                let tile = Tile { words: tile, t, n };
                match form {
                    Form::Int8 => put_int8::<S>(values, tile),
                    Form::F32 => put_f32(values, tile),
                    Form::Bf16 | Form::Tiles => put_bf16(values, tile),
                }
            }
        }
    }
}

/// One row's words in a tile.
#[derive(Clone, Copy)]
struct Tile<'a> {
    words: Shared<'a, u32>,
    t: usize,
    n: usize,
}

impl Tile<'_> {
    /// Writes words `at..` of the row.
    #[inline(always)]
    fn put<const N: usize>(self, at: usize, words: [u32; N]) {
        // SAFETY: only who makes row `t` writes its words.
        unsafe { self.words.set_each(at * self.n + self.t, self.n, words) };
    }
}

/// A row of the source.
#[inline(always)]
fn make<S: Simd>(source: Source<'_>, row: usize, out: &mut [f32]) {
    match source {
        // SAFETY: sources are not written while activations are prepared.
        Source::Plain(x) => out.copy_from_slice(unsafe { x.row(row) }),
        Source::Norm(x, weight, eps) => {
            // SAFETY: as above.
            out.copy_from_slice(unsafe { x.row(row) });
            normalise::<S>(out, weight, eps);
        }
        Source::Gated(gate, up, activation) => {
            // SAFETY: as above.
            let (gate, up) = unsafe { (gate.row(row), up.row(row)) };
            gated::<S>(activation, gate, up, out);
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
        sum = S::mul_add(x, x, sum);
    }
    S::sum(sum)
}

#[inline(always)]
fn gated<S: Simd>(activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match activation {
        Activation::Silu => {
            let (lanes, rest) = out.as_chunks_mut::<LANES>();
            let done = lanes.len() * LANES;
            let inputs = gate.as_chunks::<LANES>().0.iter().zip(up.as_chunks::<LANES>().0);
            for (out, (gate, up)) in lanes.iter_mut().zip(inputs) {
                S::store(S::mul(silu_lanes::<S>(S::load(gate)), S::load(up)), out);
            }
            for (out, (&gate, up)) in rest.iter_mut().zip(gate[done..].iter().zip(&up[done..])) {
                *out = silu(gate) * up;
            }
        }
        Activation::GeluTanh => {
            for (out, (&gate, up)) in out.iter_mut().zip(gate.iter().zip(up)) {
                *out = gelu_tanh(gate) * up;
            }
        }
    }
}

#[inline(always)]
fn put_f32(values: &[f32], tile: Tile<'_>) {
    for (i, x) in values.iter().enumerate() {
        tile.put(i, [x.to_bits()]);
    }
}

#[inline(always)]
fn put_bf16(values: &[f32], tile: Tile<'_>) {
    let (pairs, rest) = values.as_chunks::<2>();
    for (i, [low, high]) in pairs.iter().enumerate() {
        tile.put(i, [round_bf16(*low) | round_bf16(*high) << 16]);
    }
    if let [last] = rest {
        tile.put(pairs.len(), [round_bf16(*last)]);
    }
}

/// Writes row `r` of sixteen, rounded to bf16, zero-padded to whole tiles.
#[inline(always)]
fn put_tiles<S: Simd>(values: &[f32], tiles: Shared<'_, u32>, r: usize) {
    let (whole, rest) = values.as_chunks::<TILE_COLS>();
    for (tile, x) in whole.iter().enumerate() {
        put_tile_row::<S>(x, tiles, tile * TILE_ROWS + r);
    }
    if !rest.is_empty() {
        let mut last = [0.0; TILE_COLS];
        last[..rest.len()].copy_from_slice(rest);
        put_tile_row::<S>(&last, tiles, whole.len() * TILE_ROWS + r);
    }
}

/// Writes row `row` of all tiles' rows.
#[inline(always)]
fn put_tile_row<S: Simd>(values: &[f32; TILE_COLS], tiles: Shared<'_, u32>, row: usize) {
    let halves = values.as_chunks::<LANES>().0;
    // SAFETY: only who makes the row writes its words.
    let words = unsafe { tiles.write(row * LANES, LANES) };
    let words = words.as_mut_array().expect("a row of a tile is sixteen words");
    S::store_u32(S::pack_bf16(S::load(&halves[0]), S::load(&halves[1])), words);
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn round_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { bits >> 16 | 0x40 } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
}

/// Rounds a row to 8 bits, 32 values at a time.
#[inline(always)]
fn put_int8<S: Simd>(values: &[f32], tile: Tile<'_>) {
    for (block, x) in values.as_chunks::<32>().0.iter().enumerate() {
        tile.put(block * BLOCK_WORDS, quantise::<S>(x));
    }
}

/// The words of 32 values, see [`BLOCK_WORDS`].
#[inline(always)]
fn quantise<S: Simd>(x: &[f32; 32]) -> [u32; BLOCK_WORDS] {
    // Adding 1.5 · 2²³ rounds to the nearest integer, which the lowest bits then hold.
    const ROUND: f32 = 12_582_912.0;
    let halves = x.as_chunks::<LANES>().0;
    let (a, b) = (S::load(&halves[0]), S::load(&halves[1]));
    let sign = S::splat_u32(0x7fff_ffff);
    let magnitude = S::max(S::from_bits(S::and(S::bits(a), sign)), S::from_bits(S::and(S::bits(b), sign)));
    let largest = S::largest(magnitude);
    // Values below this are zero to any sum they could be part of.
    let inverse = S::splat(if largest > 1e-30 { 127.0 / largest } else { 0.0 });
    let (a, b) = (S::mul_add(a, inverse, S::splat(ROUND)), S::mul_add(b, inverse, S::splat(ROUND)));
    // Sums of integers this small are exact in any order.
    let of = [S::sum(S::add(a, S::splat(-ROUND))), S::sum(S::add(b, S::splat(-ROUND)))];
    // NaN and infinite values make a sum NaN, and so everything that is made of the block.
    let scale = if of[0].is_nan() || of[1].is_nan() { f32::NAN } else { largest / 127.0 };
    let bytes = [S::low_bytes(S::bits(a)), S::low_bytes(S::bits(b))];
    let mut words = [0; BLOCK_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_flattened().as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let integers = |sum: f32| -(sum as i32) as u32;
    words[8] = scale.to_bits();
    words[9] = integers(of[0] + of[1]);
    words[10] = (scale * (of[0] + of[1])).to_bits();
    words[11] = integers(of[0]);
    words[12] = integers(of[1]);
    words[13] = (scale * of[0]).to_bits();
    words[14] = (scale * of[1]).to_bits();
    words
}
