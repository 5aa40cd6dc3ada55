//! `paged_attention` of prompts in bf16 tiles: scores and results of 32 queries
//! with 64 positions at a time, softmax in f32 between.
//!
//! Queries, keys, values and shares are rounded to bf16, as a bf16 cache would
//! round keys and values; everything else is as in [`super::cpu`].

use super::cpu::{Attend, BLOCK, share};
use crate::CacheLayerConfig;
use crate::cpu::activations::{TILE_COLS, TILE_ROWS};
use crate::cpu::amx::{Sums, TILE_WORDS, Tiles, places};
use crate::cpu::run::Sizes;
use crate::cpu::shared::{Bump, Shared};
use crate::cpu::simd::{Kernel, LANES, Simd, Words};

/// Tiles of columns in a block.
const BLOCK_TILES: usize = BLOCK / TILE_COLS;

/// Each thread's room, for as many queries as a task may have, in pairs of tiles.
#[derive(Clone, Copy)]
pub(super) struct Scratch<'s> {
    /// Tiles: for each sixteen queries `[k_dim]`, for each sixteen positions `[k_dim]`.
    queries: Shared<'s, u32>,
    keys: Shared<'s, Words>,
    /// For each sixteen dimensions `[BLOCK]`.
    values: Shared<'s, Words>,
    /// For each sixteen queries `[BLOCK]`.
    shares: Shared<'s, u32>,
    /// `[queries, BLOCK]`
    scores: Shared<'s, f32>,
    shrink: Shared<'s, f32>,
    /// Of each thread: queries, and words of each of the others.
    n_queries: usize,
    k_tiles: usize,
    v_panels: usize,
}

/// One thread's part of it.
pub(super) struct Room<'a> {
    queries: &'a mut [u32],
    keys: &'a mut [Words],
    values: &'a mut [Words],
    shares: &'a mut [u32],
    scores: &'a mut [f32],
    shrink: &'a mut [f32],
}

impl<'s> Scratch<'s> {
    /// Room for `n_queries` queries of a task; none where there are no tiles.
    pub fn take(bump: &mut Bump<'s>, sizes: &Sizes<'_>, layer: &CacheLayerConfig, n_queries: usize) -> Self {
        let there = sizes.isa.has_tiles();
        let n_queries = if there { n_queries.next_multiple_of(2 * TILE_ROWS) } else { 0 };
        let k_tiles = if there { layer.k_dim.div_ceil(TILE_COLS) } else { 0 };
        let v_panels = if there { layer.v_dim.div_ceil(LANES) } else { 0 };
        let each = |n: usize| sizes.threads.saturating_mul(n);
        Self {
            queries: bump.take(each(n_queries / TILE_ROWS * k_tiles * TILE_WORDS)),
            keys: bump.take(each(BLOCK / LANES * k_tiles * LANES)),
            values: bump.take(each(v_panels * BLOCK / 2)),
            shares: bump.take(each(n_queries / TILE_ROWS * BLOCK_TILES * TILE_WORDS)),
            scores: bump.take(each(n_queries * BLOCK)),
            shrink: bump.take(each(n_queries)),
            n_queries,
            k_tiles,
            v_panels,
        }
    }

    pub fn room(self, thread: usize) -> Room<'s> {
        let Self { n_queries, k_tiles, v_panels, .. } = self;
        // SAFETY: each thread takes its own part of each.
        unsafe {
            let n = n_queries / TILE_ROWS * k_tiles * TILE_WORDS;
            let queries = self.queries.write(thread * n, n);
            let n = BLOCK / LANES * k_tiles * LANES;
            let keys = self.keys.write(thread * n, n);
            let n = v_panels * BLOCK / 2;
            let values = self.values.write(thread * n, n);
            let n = n_queries / TILE_ROWS * BLOCK_TILES * TILE_WORDS;
            let shares = self.shares.write(thread * n, n);
            let scores = self.scores.write(thread * n_queries * BLOCK, n_queries * BLOCK);
            let shrink = self.shrink.write(thread * n_queries, n_queries);
            Room { queries, keys, values, shares, scores, shrink }
        }
    }
}

/// One task.
pub(super) struct AttendTiles<'a> {
    pub attend: Attend<'a>,
    pub tiles: Room<'a>,
}

impl Kernel for AttendTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let registers = Tiles::configure();
        self.start::<S>();
        let first = self.attend.queries.first_position;
        let end = first + self.attend.queries.n_rows;
        let mut position = self.attend.oldest(first) / BLOCK * BLOCK;
        while position < end {
            let n = BLOCK.min(end - position);
            self.attend.load::<S>(position, n);
            self.round::<S>(n);
            for pair in 0..self.attend.queries.len().div_ceil(2 * TILE_ROWS) {
                // Queries are in order of positions.
                let last = (2 * TILE_ROWS * (pair + 1)).min(self.attend.queries.len()) - 1;
                if self.attend.queries.position(last) >= position {
                    self.scores(&registers, pair, n);
                    self.shares::<S>(pair, position, n);
                    self.results::<S>(&registers, pair);
                }
            }
            position += BLOCK;
        }
        self.attend.finish();
    }
}

/// Rounds up to [`TILE_COLS`] values to a row of a tile.
#[inline(always)]
fn put_row<S: Simd>(values: &[f32], row: &mut [u32]) {
    let mut whole = [0.0; TILE_COLS];
    whole[..values.len()].copy_from_slice(values);
    let halves = whole.as_chunks::<LANES>().0;
    let row = row.as_mut_array().expect("a row of a tile is sixteen words");
    S::store_u32(S::pack_bf16(S::load(&halves[0]), S::load(&halves[1])), row);
}

/// Two vectors as words, the first in the lower halves.
#[inline(always)]
fn put_pair<S: Simd>(low: &[f32; LANES], high: &[f32; LANES], out: &mut Words) {
    S::store_u32(S::pair_bf16(S::load(low), S::load(high)), out);
}

impl AttendTiles<'_> {
    /// Packs the queries, and resets sums and totals.
    #[inline(always)]
    fn start<S: Simd>(&mut self) {
        let attend = &mut self.attend;
        let (k_dim, queries) = (attend.layer.config.k_dim, &attend.queries);
        let k_tiles = k_dim.div_ceil(TILE_COLS);
        for i in 0..queries.len() {
            // SAFETY: nobody writes q while attention runs.
            let row = unsafe { attend.q.row(queries.first_row + i / queries.heads) };
            let head = queries.kv_head * queries.heads + i % queries.heads;
            for (t, x) in row[head * k_dim..][..k_dim].chunks(TILE_COLS).enumerate() {
                let mut scaled = [0.0; TILE_COLS];
                for (out, x) in scaled.iter_mut().zip(x) {
                    *out = x * attend.op.scale;
                }
                let tile = (i / TILE_ROWS * k_tiles + t) * TILE_WORDS;
                put_row::<S>(&scaled, &mut self.tiles.queries[tile + i % TILE_ROWS * LANES..][..LANES]);
            }
        }
        attend.reset();
    }

    /// Rounds the keys and values of a block of `n` positions, zero beyond.
    #[inline(always)]
    fn round<S: Simd>(&mut self, n: usize) {
        let k_dim = self.attend.layer.config.k_dim;
        let zero = [0.0; LANES];
        let panels = self.tiles.keys.chunks_exact_mut(k_dim.div_ceil(TILE_COLS) * LANES);
        for (keys, out) in self.attend.room.keys.chunks_exact(k_dim).zip(panels).take(n.div_ceil(LANES)) {
            for (i, out) in out.iter_mut().enumerate() {
                let [low, high] = [2 * i, 2 * i + 1].map(|i| keys.get(i).unwrap_or(&zero));
                put_pair::<S>(low, high, out);
            }
        }
        let panels = self.tiles.values.chunks_exact_mut(BLOCK / 2);
        for (values, out) in self.attend.room.values.chunks_exact(BLOCK).zip(panels) {
            for (i, out) in out.iter_mut().enumerate() {
                let [low, high] = [2 * i, 2 * i + 1].map(|i| if i < n { &values[i] } else { &zero });
                put_pair::<S>(low, high, out);
            }
        }
    }

    /// The scores of a pair of tiles of queries with `n` positions.
    #[inline(always)]
    fn scores(&mut self, registers: &Tiles, pair: usize, n: usize) {
        let k_tiles = self.attend.layer.config.k_dim.div_ceil(TILE_COLS);
        let tile = |i: usize| self.tiles.queries[i * k_tiles * TILE_WORDS..][..k_tiles * TILE_WORDS].as_ptr();
        let x = [tile(2 * pair), tile(2 * pair + 1)];
        let scores = &mut self.tiles.scores[pair * 2 * TILE_ROWS * BLOCK..][..2 * TILE_ROWS * BLOCK];
        let (upper, lower) = scores.split_at_mut(TILE_ROWS * BLOCK);
        for panel in (0..n.div_ceil(LANES)).step_by(2) {
            // A second panel that has no positions is scored for nothing.
            let keys = |i: usize| self.tiles.keys[i * k_tiles * LANES..][..k_tiles * LANES].as_ptr().cast();
            let w = [keys(panel), keys(panel + 1)];
            let at = panel * LANES;
            let out = [&mut *upper, &mut *lower].map(|rows| {
                let start = rows[at..].as_mut_ptr();
                [start, start.wrapping_add(LANES)]
            });
            // SAFETY: tiles are as many as asked for, and sixteen rows of a block of scores are there.
            unsafe { registers.multiply(x, w, k_tiles, out, BLOCK) };
        }
    }

    /// Turns the scores of a pair of tiles of queries into their shares.
    #[inline(always)]
    fn shares<S: Simd>(&mut self, pair: usize, position: usize, n: usize) {
        let attend = &mut self.attend;
        let queries = 2 * TILE_ROWS * pair..attend.queries.len().min(2 * TILE_ROWS * (pair + 1));
        for i in queries {
            let at = attend.queries.position(i);
            let from = attend.oldest(at).saturating_sub(position);
            let to = (at + 1).saturating_sub(position).min(n);
            let scores = &mut self.tiles.scores.as_chunks_mut::<BLOCK>().0[i];
            self.tiles.shrink[i] = 1.0;
            if from < to {
                let total = &mut attend.room.totals.as_chunks_mut::<2>().0[i];
                self.tiles.shrink[i] = share::<S>(scores, from..to, attend.op.softcap, total);
            } else {
                scores.fill(0.0);
            }
            for (t, shares) in scores.as_chunks::<TILE_COLS>().0.iter().enumerate() {
                let tile = (i / TILE_ROWS * BLOCK_TILES + t) * TILE_WORDS;
                put_row::<S>(shares, &mut self.tiles.shares[tile + i % TILE_ROWS * LANES..][..LANES]);
            }
        }
    }

    /// Adds the block's values to the sums of a pair of tiles of queries.
    #[inline(always)]
    fn results<S: Simd>(&mut self, registers: &Tiles, pair: usize) {
        let v_panels = self.attend.layer.config.v_dim.div_ceil(LANES);
        let n_queries = self.attend.queries.len();
        let words = BLOCK_TILES * TILE_WORDS;
        let tile = |i: usize| self.tiles.shares[i * words..][..words].as_ptr();
        let x = [tile(2 * pair), tile(2 * pair + 1)];
        let mut products: Sums = [[[[0.0; LANES]; TILE_ROWS]; 2]; 2];
        for panel in (0..v_panels).step_by(2) {
            // A last panel without a second is multiplied twice.
            let both = [panel, (panel + 1).min(v_panels - 1)];
            let w = both.map(|i| self.tiles.values[i * BLOCK / 2..][..BLOCK / 2].as_ptr().cast());
            // SAFETY: shares and values have a block's tiles each.
            unsafe { registers.multiply(x, w, BLOCK_TILES, places(&mut products), LANES) };
            for (half, products) in products.iter().enumerate() {
                let first = (2 * pair + half) * TILE_ROWS;
                for (&panel, products) in both.iter().zip(products).take(v_panels - panel) {
                    for (i, product) in (first..n_queries).zip(products) {
                        let sum = &mut self.attend.room.sums[i * v_panels + panel];
                        let shrunk = S::mul(S::load(sum), S::splat(self.tiles.shrink[i]));
                        S::store(S::add(shrunk, S::load(product)), sum);
                    }
                }
            }
        }
    }
}
