//! Linear maps: panels of sixteen weight rows unpacked once, then multiplied
//! with tiles of activation rows.
//!
//! An output is a function of its weight row and its activation row alone,
//! summed in the order of columns. So it does not depend on how many rows
//! there are, or which thread computes it.

use std::ops::Range;

use gguf::Format;
use gguf::format::{Block, Float, Visitor};

use super::Isa;
use super::activations::{Activations, Form, TILE};
use super::fused::{MultiplyBlocks, MultiplyHalves};
use super::interleave::Interleaved;
use super::panel::{CHUNK, From, MOST, Panel, Room, UnpackBlocks, UnpackFloats};
use super::run::{Matrix, Run};
use super::simd::{Kernel, LANES, Rows, Simd, dispatch};
use super::tile::{Finish, Multiply, Sums};
use super::unpack::has_short_cut;
use crate::{Role, Weight};

/// How `isa` multiplies weights of `format` with rows of `role`.
pub fn form(format: Format, isa: Isa, role: Role) -> Form {
    match format {
        Format::F32 | Format::F16 => Form::F32,
        _ if isa.has_tiles() && role == Role::Prompt => Form::Tiles,
        Format::BF16 if isa.has_bf16_pairs() && role == Role::Prompt => Form::Bf16,
        Format::BF16 => Form::F32,
        _ => Form::Int8,
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

/// One weight of a linear map, and where its results go.
#[derive(Clone, Copy)]
pub struct Map<'a> {
    /// The weight, of which `first_row..first_row + out.cols` are used.
    pub weight: &'a Weight,
    /// The same in another layout, if there is one.
    pub interleaved: Option<&'a Interleaved>,
    /// Where the map's rows start (experts are stacked).
    pub first_row: usize,
    /// Added to the results.
    pub bias: Option<&'a [f32]>,
    /// Where results go.
    pub out: Matrix<'a>,
}

/// Linear maps of the same rows.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// What is multiplied.
    pub x: Activations<'a>,
    /// Which rows of it, prepared as one segment.
    pub segment: (usize, usize),
    /// What they are.
    pub role: Role,
    /// The output row of each.
    pub out_rows: &'a [u32],
    /// What becomes of results.
    pub store: Store,
    /// Room to unpack.
    pub room: Room<'a>,
}

impl<'a> Linear<'a> {
    pub(super) fn segment(&self) -> Range<usize> {
        self.segment.0..self.segment.1
    }

    /// Computes all outputs of `maps`, on all threads, in one loop.
    pub fn run(self, run: &mut Run<'_>, maps: &[Map<'a>]) {
        if self.segment().is_empty() {
            return;
        }
        let (isa, threads) = (run.isa, run.pool.threads());
        let panels = |map: &Map<'_>| map.out.cols.div_ceil(LANES);
        let total: usize = maps.iter().map(panels).sum();
        // Some eight parts a thread, so that a slow thread does fewer.
        let most = (total / (8 * threads)).max(1);
        let form_of = |map: &Map<'_>| form(map.weight.format(), isa, self.role);
        let of_tiles = panels_of_tiles(
            maps.iter().filter(|map| form_of(map) == Form::Tiles).map(panels),
            maps.iter().map(|map| Room::panels(Form::Tiles, map.weight.cols())).min().unwrap_or(2),
            threads,
        );
        let most_of = |map: &Map<'_>| match (form_of(map), self.segment().len()) {
            (Form::Tiles, _) => of_tiles,
            (_, 0..=TILE) => most,
            (form, _) => most.min(Room::panels(form, map.weight.cols())),
        };
        let units = |map: &Map<'_>| panels(map).div_ceil(most_of(map));
        let n_units = maps.iter().map(units).sum();
        run.pool.for_each_range(n_units, 1, |thread, range| {
            for mut unit in range {
                for map in maps {
                    if unit < units(map) {
                        let size = most_of(map);
                        let panels = unit * size..panels(map).min((unit + 1) * size);
                        map.weight.format().visit(Part { linear: &self, map, isa, thread, panels });
                        break;
                    }
                    unit -= units(map);
                }
            }
        });
    }
}

/// How many panels, at most `most`, one thread multiplies in tiles at a time: what
/// takes `threads` threads least. All activations are read once each time, which
/// takes about as long as multiplying them with two panels.
fn panels_of_tiles(maps: impl Iterator<Item = usize> + Clone, most: usize, threads: usize) -> usize {
    let time = |size: usize| {
        let units: usize = maps.clone().map(|panels| panels.div_ceil(size)).sum();
        units.div_ceil(threads) * (size + 2)
    };
    (1..=most / 2)
        .rev()
        .map(|pairs| 2 * pairs)
        .min_by_key(|&size| time(size))
        .expect("there is room for two panels at least")
}

/// One thread's share, on its way to code compiled for format and processor.
pub(super) struct Part<'a, 'r> {
    pub(super) linear: &'r Linear<'a>,
    pub(super) map: &'r Map<'a>,
    pub(super) isa: Isa,
    pub(super) thread: usize,
    pub(super) panels: Range<usize>,
}

impl Visitor for Part<'_, '_> {
    type Output = ();

    fn float<F: Float>(self) {
        let is_half = size_of::<F::Bytes>() == 2 && self.map.weight.cols().is_multiple_of(8);
        if self.is_single() && is_half && self.form() == Form::F32 {
            return self.run_single(|part, from, x| {
                dispatch(part.isa, MultiplyHalves { format: F::FORMAT, from, x })
            });
        }
        self.run(|part, from, columns, panel| {
            dispatch(part.isa, UnpackFloats { format: F::FORMAT, from, columns, out: panel });
        });
    }

    fn block<B: Block>(self) {
        if self.is_single() && self.form() == Form::Int8 && has_short_cut(B::FORMAT) {
            return self.run_single(|part, from, x| dispatch(part.isa, MultiplyBlocks::<B>::new(from, x)));
        }
        self.run(|part, from, columns, panel| {
            dispatch(part.isa, UnpackBlocks::<B>::new(from, columns, panel));
        });
    }

    fn opaque(self) {
        unreachable!("weights of listed formats are refused when they are loaded");
    }
}

impl<'a> Part<'a, '_> {
    fn form(&self) -> Form {
        form(self.map.weight.format(), self.isa, self.linear.role)
    }

    /// Whether there is one row of activations only.
    fn is_single(&self) -> bool {
        self.linear.segment().len() == 1
    }

    /// Multiplies the panels with the only row of activations by `multiply`.
    fn run_single(self, multiply: impl Fn(&Self, From<'_>, &[u32]) -> [f32; LANES]) {
        // SAFETY: the activations are prepared.
        let (x, _) = unsafe { self.linear.x.tile(self.form(), &self.linear.segment(), 0) };
        let mut sums: Sums = [[0.0; LANES]; TILE];
        for panel in self.panels.clone() {
            let (from, skip) = self.rows(panel);
            self.prefetch(panel, &(0..self.map.weight.cols()));
            sums[0] = multiply(&self, from, x);
            self.finish(0, (panel, skip), &sums);
        }
    }

    /// Multiplies the panels, unpacking columns of sixteen rows by `unpack`.
    fn run(self, unpack: impl Fn(&Self, From<'_>, Range<usize>, &mut Panel<'_>)) {
        let (cols, form) = (self.map.weight.cols(), self.form());
        #[cfg(target_arch = "x86_64")]
        if form == Form::Tiles {
            return self.run_tiles(unpack);
        }
        let n_tiles = self.linear.segment().len().div_ceil(TILE);
        let room = self.linear.room;
        if n_tiles == 1 {
            for panel in self.panels.clone() {
                let (from, skip) = self.rows(panel);
                let mut sums: Sums = [[0.0; LANES]; TILE];
                for start in (0..cols).step_by(CHUNK) {
                    let columns = start..cols.min(start + CHUNK);
                    self.prefetch(panel, &columns);
                    let mut chunk = room.panel(self.thread, 0, form, self.map.weight.format(), columns.len());
                    unpack(&self, from, columns.clone(), &mut chunk);
                    self.multiply(0, (panel, skip), &chunk, columns, &mut sums);
                }
            }
            return;
        }
        let format = self.map.weight.format();
        let mut panels: [Option<(Panel<'_>, usize)>; MOST] = [const { None }; MOST];
        for (i, (panel, unpacked)) in self.panels.clone().zip(&mut panels).enumerate() {
            let (from, skip) = self.rows(panel);
            let (whole, _) = unpacked.insert((room.panel(self.thread, i, form, format, cols), skip));
            unpack(&self, from, 0..cols, whole);
        }
        dispatch(self.isa, Tiles { part: &self, panels: &panels });
    }

    /// Adds the products of `columns`, which `unpacked` holds, to `sums`, and
    /// stores the sums from lane `skip` on after the last column.
    fn multiply(
        &self,
        tile: usize,
        (panel, skip): (usize, usize),
        unpacked: &Panel<'_>,
        columns: Range<usize>,
        sums: &mut Sums,
    ) {
        let (linear, map, form) = (self.linear, self.map, self.form());
        // SAFETY: the activations are prepared.
        let (x, n) = unsafe { linear.x.tile(form, &linear.segment(), tile) };
        let words = form.row_words(columns.start) * n..form.row_words(columns.end) * n;
        let first = columns.start == 0;
        dispatch(self.isa, Multiply { panel: unpacked, x: &x[words], n, first, sums });
        if columns.end == map.weight.cols() {
            self.finish(tile, (panel, skip), sums);
        }
    }

    /// Stores the sums of a tile with a panel from lane `skip` on.
    fn finish(&self, tile: usize, (panel, skip): (usize, usize), sums: &Sums) {
        dispatch(self.isa, self.finishing(tile * TILE, (panel, skip), sums));
    }

    #[inline(always)]
    pub(super) fn finishing<'p>(
        &'p self,
        first_row: usize,
        (panel, skip): (usize, usize),
        sums: &'p [[f32; LANES]],
    ) -> Finish<'a, 'p> {
        let (linear, map) = (self.linear, self.map);
        let rows = first_row..self.linear.segment().len().min(first_row + sums.len());
        let out_rows = &linear.out_rows[rows];
        let (out, first) = (map.out, panel * LANES);
        Finish { sums, skip, out_rows, out, first, bias: map.bias, store: linear.store }
    }

    /// The rows of a panel, and which of them is the panel's first: where a panel
    /// would end beyond the weight, it starts earlier.
    pub(super) fn rows(&self, panel: usize) -> (From<'a>, usize) {
        let weight = self.map.weight;
        let first = self.map.first_row + panel * LANES;
        if let Some(interleaved) = self.interleaved() {
            return (From::Panel(interleaved.panel(first / LANES)), 0);
        }
        if weight.rows() < LANES {
            return (From::Rows(self.linear.room.few_rows(self.thread, weight)), first);
        }
        let start = first.min(weight.rows() - LANES);
        let base = weight.bytes()[start * weight.row_bytes()..].as_ptr();
        (From::Rows(Rows::new(base, weight.row_bytes())), first - start)
    }

    /// The interleaved weight, if the map starts with one of its panels.
    fn interleaved(&self) -> Option<&'a Interleaved> {
        self.map.interleaved.filter(|_| self.map.first_row.is_multiple_of(LANES))
    }

    /// Asks for what a panel's `columns` take of the next panel's memory.
    fn prefetch(&self, panel: usize, columns: &Range<usize>) {
        if self.interleaved().is_some() {
            // It is read in order, which the processor notices by itself.
            return;
        }
        let weight = self.map.weight;
        let next = (self.map.first_row + (panel + 1) * LANES) * weight.row_bytes();
        let part = |column: usize| next + LANES * weight.row_bytes() * column / weight.cols();
        let bytes = weight.bytes();
        let part = part(columns.start).min(bytes.len())..part(columns.end).min(bytes.len());
        prefetch(&bytes[part]);
    }
}

/// Multiplies every tile with the panels that were unpacked, each with the lanes to skip.
struct Tiles<'a, 'r, 'p> {
    part: &'p Part<'a, 'r>,
    panels: &'p [Option<(Panel<'p>, usize)>],
}

impl Kernel for Tiles<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Part { linear, panels, .. } = self.part;
        let (form, segment) = (self.part.form(), linear.segment());
        let mut sums: Sums = [[0.0; LANES]; TILE];
        for tile in 0..segment.len().div_ceil(TILE) {
            // SAFETY: the activations are prepared.
            let (x, n) = unsafe { linear.x.tile(form, &segment, tile) };
            for (panel, unpacked) in panels.clone().zip(self.panels) {
                let Some((unpacked, skip)) = unpacked else { break };
                Multiply { panel: unpacked, x, n, first: true, sums: &mut sums }.run::<S>();
                self.part.finishing(tile * TILE, (panel, *skip), &sums).run::<S>();
            }
        }
    }
}

/// Asks for memory that will be read soon.
#[inline]
fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: prefetching has no effect that could be seen.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast())
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
