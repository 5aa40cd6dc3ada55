//! Linear maps of prompts in tiles: panels become bf16, and two of them are
//! multiplied with two tiles of activations at a time.
//!
//! A weight of a block format is rounded once more, to bf16, and activations
//! are rounded to bf16 instead of 8 bits, which is nearer to the exact product.

use std::ops::Range;

use super::activations::{TILE_COLS, TILE_ROWS};
use super::amx::{Sums, TILE_WORDS, Tiles, places};
use super::linear::Part;
use super::panel::{CHUNK, From, MOST_TILES, Panel};
use super::simd::{Kernel, LANES, Simd, Words, dispatch};
use crate::cpu::activations::Form;

impl Part<'_, '_> {
    /// Multiplies the panels, unpacking columns of sixteen rows by `unpack`.
    pub(super) fn run_tiles(self, unpack: impl Fn(&Self, From<'_>, Range<usize>, &mut Panel<'_>)) {
        let mut skips = [0; MOST_TILES];
        for (i, (panel, skip)) in self.panels.clone().zip(&mut skips).enumerate() {
            *skip = self.panel_of_tiles(i, panel, &unpack);
        }
        let (linear, segment) = (self.linear, self.linear.segment());
        let n_tiles = self.map.weight.cols().div_ceil(TILE_COLS);
        let tiles = Tiles::configure(self.isa);
        let mut sums: Sums = [[[[0.0; LANES]; TILE_ROWS]; 2]; 2];
        for first in (0..segment.len()).step_by(2 * TILE_ROWS) {
            // SAFETY: the activations are prepared.
            let x = unsafe {
                [first, first + TILE_ROWS].map(|first| linear.x.tile_rows(&segment, first).as_ptr())
            };
            for i in (0..self.panels.len()).step_by(2) {
                // A last panel without a second is multiplied twice.
                let pair = [i, (i + 1).min(self.panels.len() - 1)];
                let w = pair.map(|i| self.words_of_tiles(i).as_ptr().cast::<u32>());
                // SAFETY: rows and panels have `n_tiles` tiles each.
                unsafe { tiles.multiply(x, w, n_tiles, places(&mut sums), LANES) };
                for (half, rows) in sums.iter().enumerate() {
                    let first = first + half * TILE_ROWS;
                    for (&i, sums) in pair.iter().zip(rows).take(self.panels.len() - i) {
                        if first < segment.len() {
                            let panel = (self.panels.start + i, skips[i]);
                            dispatch(self.isa, self.finishing(first, panel, sums));
                        }
                    }
                }
            }
        }
    }

    /// Unpacks panel `panel` to bf16 as number `i`; gives the lanes to skip.
    fn panel_of_tiles(
        &self,
        i: usize,
        panel: usize,
        unpack: &impl Fn(&Self, From<'_>, Range<usize>, &mut Panel<'_>),
    ) -> usize {
        let (weight, room) = (self.map.weight, self.linear.room);
        let (from, skip) = self.rows(panel);
        let words = self.words_of_tiles(i);
        let cols = weight.cols();
        words[cols.div_ceil(2)..].fill([0; LANES]);
        if weight.format().block_len() == 1 {
            unpack(self, from, 0..cols, &mut Panel::Bf16(&mut words[..cols.div_ceil(2)]));
            return skip;
        }
        for start in (0..cols).step_by(CHUNK) {
            let columns = start..cols.min(start + CHUNK);
            let mut chunk = room.chunk(self.thread, weight.format(), columns.len());
            unpack(self, from, columns.clone(), &mut chunk);
            let out = &mut words[columns.start / 2..columns.end / 2];
            dispatch(self.isa, Dequantise { panel: &chunk, out });
        }
        skip
    }

    /// The words of the thread's panel `i`, whole tiles.
    fn words_of_tiles(&self, i: usize) -> &mut [Words] {
        let weight = self.map.weight;
        let panel = self.linear.room.panel(self.thread, i, Form::Tiles, weight.format(), weight.cols());
        let Panel::Bf16(words) = panel else { unreachable!("tiles are of bf16") };
        debug_assert_eq!(words.len() * LANES, weight.cols().div_ceil(TILE_COLS) * TILE_WORDS);
        words
    }
}

/// Integers to bf16, two columns a word.
struct Dequantise<'a, 'p> {
    panel: &'p Panel<'a>,
    out: &'p mut [Words],
}

impl Kernel for Dequantise<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Panel::Int8 { w, scales, offsets, group, bias } = self.panel else {
            unreachable!("blocks are unpacked to integers");
        };
        let steps = group / 4;
        let bias = S::splat(if offsets.is_empty() { -((1 << bias.shift) as f32) } else { 0.0 });
        for (g, scale) in scales.iter().enumerate() {
            let scale = S::load(scale);
            let offset = match offsets.get(g) {
                Some(offset) => S::load(offset),
                None => S::mul(scale, bias),
            };
            let (w, out) = (&w[g * steps..][..steps], &mut self.out[2 * g * steps..][..2 * steps]);
            for (w, out) in w.iter().zip(out.as_chunks_mut::<2>().0) {
                let w = S::load_u32(w);
                let mask = S::splat_u32(0xff);
                let a = S::mul_add(S::from_i32(S::and(w, mask)), scale, offset);
                let b = S::mul_add(S::from_i32(S::and(S::shr::<8>(w), mask)), scale, offset);
                let c = S::mul_add(S::from_i32(S::and(S::shr::<16>(w), mask)), scale, offset);
                let d = S::mul_add(S::from_i32(S::shr::<24>(w)), scale, offset);
                S::store_u32(S::pair_bf16(a, b), &mut out[0]);
                S::store_u32(S::pair_bf16(c, d), &mut out[1]);
            }
        }
    }
}
