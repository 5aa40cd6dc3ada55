//! Room for unpacked panels, and the loops that fill them.

use std::marker::PhantomData;
use std::ops::Range;

use gguf::Format;
use gguf::format::{Block, Visitor, f16};

use super::activations::Form;
use super::interleave::order;
use super::linear::form;
use super::run::Sizes;
use super::shared::{Bump, Shared};
use super::simd::{Bias, InRows, Kernel, LANES, Rows, Simd, Together, Words};
pub use super::unpack::bias as bias_of;
use super::unpack::{Groups, has_short_cut, unpack, unpack_any};
use crate::{Role, Weight};

/// What the panels that are unpacked together may take: half of a small second-level cache.
const CACHE: usize = 256 << 10;

/// The same for [tiles](Form::Tiles): processors that have them have 2 MiB of it,
/// and the longer a panel stays, the less often activations are read.
const TILES_CACHE: usize = 512 << 10;

/// Columns that are unpacked at a time where they are used at once: few enough
/// to stay in the first cache, a whole number of any format's blocks.
pub const CHUNK: usize = 256;

/// Most panels that are unpacked together.
pub const MOST: usize = 4;

/// The same for tiles, which take two panels at a time.
pub const MOST_TILES: usize = 16;

/// Columns of sixteen rows, unpacked.
pub enum Panel<'a> {
    /// See [`super::unpack`].
    Int8 {
        /// Four columns a word.
        w: &'a mut [Words],
        /// One for each group of columns.
        scales: &'a mut [[f32; LANES]],
        /// The same, or nothing where the format has no offsets.
        offsets: &'a mut [[f32; LANES]],
        /// Columns a group: 16 or 32.
        group: usize,
        /// How bytes stand for integers.
        bias: Bias,
    },
    /// A column each.
    F32(&'a mut [[f32; LANES]]),
    /// Two columns a word.
    Bf16(&'a mut [Words]),
}

/// How the blocks of a format are unpacked.
#[derive(Clone, Copy)]
struct Shape {
    group: usize,
    has_offset: bool,
    bias: Bias,
}

impl Shape {
    /// Of a block format; of floats nothing that matters.
    fn of(format: Format) -> Self {
        format.visit(ShapeOf)
    }
}

struct ShapeOf;

impl Visitor for ShapeOf {
    type Output = Shape;

    fn float<F: gguf::format::Float>(self) -> Shape {
        Shape { group: 1, has_offset: false, bias: Bias { shift: 0, largest: 0 } }
    }

    fn block<B: Block>(self) -> Shape {
        Shape { group: B::GROUP, has_offset: B::HAS_OFFSET, bias: const { bias_of::<B>() } }
    }

    fn opaque(self) -> Shape {
        unreachable!("weights of listed formats are refused when they are loaded");
    }
}

/// Each thread's unpacked panels.
#[derive(Clone, Copy)]
pub struct Room<'a> {
    words: Shared<'a, Words>,
    floats: Shared<'a, [f32; LANES]>,
    /// Rows of weights that have fewer than a panel.
    few: Shared<'a, u8>,
    /// Of each thread.
    n_words: usize,
    n_floats: usize,
    n_few: usize,
}

/// Words and floats (sixteen lanes each) that `cols` columns take in a form.
fn panel_size(form: Form, cols: usize) -> (usize, usize) {
    match form {
        // Groups are of 16 at least, and scales come before offsets.
        Form::Int8 => (cols / 4, cols / 16 * 2),
        Form::F32 => (0, cols),
        Form::Bf16 | Form::Tiles => (form.row_words(cols), 0),
    }
}

impl<'a> Room<'a> {
    /// Panels of `cols` columns that are unpacked together.
    pub fn panels(form: Form, cols: usize) -> usize {
        let (words, floats) = panel_size(form, cols);
        let bytes = (words + floats).max(1) * size_of::<Words>();
        match form {
            Form::Tiles => (TILES_CACHE / bytes / 2 * 2).clamp(2, MOST_TILES),
            _ => (CACHE / bytes).clamp(1, MOST),
        }
    }

    /// Room for panels of any of `weights`.
    pub fn take<'w>(
        bump: &mut Bump<'a>,
        sizes: &Sizes<'_>,
        weights: impl Iterator<Item = &'w Weight>,
    ) -> Self {
        let (mut n_words, mut n_floats, mut n_few) = (0, 0, 0);
        for weight in weights {
            if weight.rows() < LANES {
                n_few = n_few.max(LANES * weight.row_bytes());
            }
            for role in [Role::Prompt, Role::Generated] {
                let (form, cols) = (form(weight.format(), sizes.isa, role), weight.cols());
                let (words, floats) = panel_size(form, cols);
                let n = Self::panels(form, cols);
                // Tiles are made of a chunk of integers at a time, which has its room behind them.
                let of_chunk = if form == Form::Tiles { panel_size(Form::Int8, CHUNK) } else { (0, 0) };
                n_words = n_words.max(n.saturating_mul(words).saturating_add(of_chunk.0));
                n_floats = n_floats.max(n.saturating_mul(floats).saturating_add(of_chunk.1));
            }
        }
        Self {
            words: bump.take(sizes.threads.saturating_mul(n_words)),
            floats: bump.take(sizes.threads.saturating_mul(n_floats)),
            few: bump.take(sizes.threads.saturating_mul(n_few)),
            n_words,
            n_floats,
            n_few,
        }
    }

    /// `cols` columns of integers, at most a chunk, behind the panels of `thread`.
    #[cfg(target_arch = "x86_64")]
    pub fn chunk(self, thread: usize, format: Format, cols: usize) -> Panel<'a> {
        let (n_words, n_floats) = panel_size(Form::Int8, CHUNK);
        let (at_words, at_floats) =
            ((thread + 1) * self.n_words - n_words, (thread + 1) * self.n_floats - n_floats);
        let Shape { group, has_offset, bias } = Shape::of(format);
        // SAFETY: each thread takes its own; panels of tiles end before it.
        let (w, floats) =
            unsafe { (self.words.write(at_words, cols / 4), self.floats.write(at_floats, 2 * cols / group)) };
        let (scales, offsets) = floats.split_at_mut(cols / group);
        let offsets = if has_offset { offsets } else { Default::default() };
        Panel::Int8 { w, scales, offsets, group, bias }
    }

    /// The rows of a weight that has fewer than sixteen, and some more.
    pub fn few_rows(self, thread: usize, weight: &Weight) -> Rows {
        // SAFETY: each thread takes its own, and has copied the rows before it reads them.
        let few = unsafe { self.few.write(thread * self.n_few, LANES * weight.row_bytes()) };
        few[..weight.bytes().len()].copy_from_slice(weight.bytes());
        Rows::new(few.as_ptr(), weight.row_bytes())
    }

    /// Panel `i` of `thread`, of `cols` columns.
    pub fn panel(self, thread: usize, i: usize, form: Form, format: Format, cols: usize) -> Panel<'a> {
        let (n_words, n_floats) = panel_size(form, cols);
        // SAFETY: each thread takes its own, one view of a panel at a time.
        let words = |n| unsafe { self.words.write(thread * self.n_words + i * n_words, n) };
        // SAFETY: as above.
        let floats = |n| unsafe { self.floats.write(thread * self.n_floats + i * n_floats, n) };
        match form {
            Form::F32 => Panel::F32(floats(n_floats)),
            Form::Bf16 | Form::Tiles => Panel::Bf16(words(n_words)),
            Form::Int8 => {
                let Shape { group, has_offset, bias } = Shape::of(format);
                let n_groups = cols / group;
                let (scales, offsets) = floats(2 * n_groups).split_at_mut(n_groups);
                let offsets = if has_offset { offsets } else { Default::default() };
                Panel::Int8 { w: words(n_words), scales, offsets, group, bias }
            }
        }
    }
}

/// Where sixteen rows are unpacked from.
#[derive(Debug, Clone, Copy)]
pub enum From<'a> {
    /// The rows themselves.
    Rows(Rows),
    /// An [interleaved](super::interleave) panel.
    Panel(&'a [u8]),
}

/// Unpacks columns of a block format.
pub struct UnpackBlocks<'a, 'p, B> {
    from: From<'p>,
    columns: Range<usize>,
    out: &'p mut Panel<'a>,
    format: PhantomData<B>,
}

impl<'a, 'p, B: Block> UnpackBlocks<'a, 'p, B> {
    /// `columns` are whole blocks of the rows.
    pub fn new(from: From<'p>, columns: Range<usize>, out: &'p mut Panel<'a>) -> Self {
        Self { from, columns, out, format: PhantomData }
    }
}

impl<B: Block> Kernel for UnpackBlocks<'_, '_, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Panel::Int8 { w, scales, offsets, .. } = self.out else {
            unreachable!("blocks are unpacked to integers");
        };
        let bytes = size_of::<B>();
        for (i, block) in (self.columns.start / B::LEN..self.columns.end / B::LEN).enumerate() {
            let groups = i * B::GROUPS..(i + 1) * B::GROUPS;
            let mut out = Groups {
                w: &mut w[i * B::LEN / 4..(i + 1) * B::LEN / 4],
                scales: &mut scales[groups.clone()],
                offsets: if B::HAS_OFFSET { &mut offsets[groups] } else { &mut [] },
            };
            match self.from {
                From::Rows(ref rows) => {
                    let from = InRows { rows, start: block * bytes, bytes };
                    // SAFETY: the columns are the rows', so each row has the block.
                    unsafe {
                        if const { has_short_cut(B::FORMAT) } {
                            unpack::<B, S>(from, &mut out);
                        } else {
                            unpack_any::<B>(from, &mut out);
                        }
                    }
                }
                From::Panel(panel) => {
                    let block = &panel[block * bytes * LANES..][..bytes * LANES];
                    // SAFETY: the slice has all of the blocks' bytes; only formats with
                    // a short cut are interleaved.
                    unsafe {
                        unpack::<B, S>(Together { start: block.as_ptr(), order: order(B::FORMAT) }, &mut out)
                    };
                }
            }
        }
    }
}

/// Unpacks columns of plain floats.
pub struct UnpackFloats<'a, 'p> {
    /// F32, F16 or BF16.
    pub format: Format,
    /// The rows.
    pub from: From<'p>,
    /// Of the rows; they start at an even one.
    pub columns: Range<usize>,
    /// Filled.
    pub out: &'p mut Panel<'a>,
}

impl Kernel for UnpackFloats<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let columns = self.columns;
        let rows = &match self.from {
            From::Rows(rows) => rows,
            From::Panel(panel) => return together::<S>(self.format, panel, columns, self.out),
        };
        match self.out {
            Panel::Bf16(w) => pairs::<S>(rows, columns, w),
            Panel::F32(w) if self.format == Format::F32 => singles::<S>(rows, columns, w),
            Panel::F32(w) if self.format == Format::F16 => halves::<S, false>(rows, columns, w),
            Panel::F32(w) => halves::<S, true>(rows, columns, w),
            Panel::Int8 { .. } => unreachable!("floats are not unpacked to integers"),
        }
    }
}

/// Columns of an interleaved panel.
#[inline(always)]
fn together<S: Simd>(format: Format, panel: &[u8], columns: Range<usize>, out: &mut Panel<'_>) {
    let column_bytes = LANES * format.block_bytes();
    let words =
        panel[columns.start * column_bytes..columns.end * column_bytes].as_chunks::<{ 4 * LANES }>().0;
    match out {
        Panel::Bf16(out) => {
            for (out, words) in out.iter_mut().zip(words) {
                *out = bytemuck::pod_read_unaligned(words);
            }
        }
        Panel::F32(out) if format == Format::F32 => {
            for (out, words) in out.iter_mut().zip(words) {
                *out = bytemuck::pod_read_unaligned(words);
            }
        }
        Panel::F32(out) => {
            let is_bf16 = format == Format::BF16;
            for (out, words) in out.as_chunks_mut::<2>().0.iter_mut().zip(words) {
                let words = S::load_u32(&bytemuck::pod_read_unaligned(words));
                let [low, high] = if is_bf16 { widen::<S, true>(words) } else { widen::<S, false>(words) };
                S::store(low, &mut out[0]);
                S::store(high, &mut out[1]);
            }
        }
        Panel::Int8 { .. } => unreachable!("floats are not unpacked to integers"),
    }
}

/// Both bf16, or both IEEE halves, of each word.
#[inline(always)]
pub fn widen<S: Simd, const BF16: bool>(words: S::U32) -> [S::F32; 2] {
    if BF16 {
        [S::from_bits(S::shl::<16>(words)), S::from_bits(S::and(words, S::splat_u32(0xffff_0000)))]
    } else {
        [S::from_f16(words), S::from_f16(S::shr::<16>(words))]
    }
}

/// Pairs of two-byte elements, as they lie in memory.
#[inline(always)]
fn pairs<S: Simd>(rows: &Rows, columns: Range<usize>, out: &mut [Words]) {
    let (fours, rest) = out.as_chunks_mut::<4>();
    let n = columns.len();
    for (i, out) in fours.iter_mut().enumerate().take(n / 8) {
        // SAFETY: eight columns from here on are the rows'.
        let words = unsafe { S::columns(rows, 2 * (columns.start + 8 * i)) };
        for (out, words) in out.iter_mut().zip(words) {
            S::store_u32(words, out);
        }
    }
    let last = n / 8 * 4;
    let rest = fours.as_flattened_mut()[last..].iter_mut().chain(rest);
    for (i, out) in rest.enumerate() {
        for (r, out) in out.iter_mut().enumerate() {
            let at = columns.start + 2 * (last + i);
            // SAFETY: the column is the rows'.
            let low = unsafe { rows.at(r, 2 * at).cast::<u16>().read_unaligned() };
            let mut high = 0;
            if at + 1 < columns.end {
                // SAFETY: as above.
                high = unsafe { rows.at(r, 2 * at + 2).cast::<u16>().read_unaligned() };
            }
            *out = u32::from(low) | u32::from(high) << 16;
        }
    }
}

/// Two-byte floats, widened.
#[inline(always)]
pub fn halves<S: Simd, const BF16: bool>(rows: &Rows, columns: Range<usize>, out: &mut [[f32; LANES]]) {
    let eights = columns.len() / 8;
    for i in 0..eights {
        // SAFETY: eight columns from here on are the rows'.
        let words = unsafe { S::columns(rows, 2 * (columns.start + 8 * i)) };
        for (j, words) in words.into_iter().enumerate() {
            let out = &mut out[8 * i + 2 * j..][..2];
            let [low, high] = widen::<S, BF16>(words);
            S::store(low, &mut out[0]);
            S::store(high, &mut out[1]);
        }
    }
    for (i, out) in out.iter_mut().enumerate().skip(8 * eights) {
        for (r, out) in out.iter_mut().enumerate() {
            // SAFETY: the column is the rows'.
            let bits = unsafe { rows.at(r, 2 * (columns.start + i)).cast::<u16>().read_unaligned() };
            *out = if BF16 { f32::from_bits(u32::from(bits) << 16) } else { f16::from_bits(bits).to_f32() };
        }
    }
}

/// Four-byte floats.
#[inline(always)]
pub fn singles<S: Simd>(rows: &Rows, columns: Range<usize>, out: &mut [[f32; LANES]]) {
    let fours = columns.len() / 4;
    for i in 0..fours {
        // SAFETY: four columns from here on are the rows'.
        let words = unsafe { S::columns(rows, 4 * (columns.start + 4 * i)) };
        for (j, words) in words.into_iter().enumerate() {
            S::store(S::from_bits(words), &mut out[4 * i + j]);
        }
    }
    for (i, out) in out.iter_mut().enumerate().skip(4 * fours) {
        for (r, out) in out.iter_mut().enumerate() {
            // SAFETY: the column is the rows'.
            *out = unsafe { rows.at(r, 4 * (columns.start + i)).cast::<f32>().read_unaligned() };
        }
    }
}
