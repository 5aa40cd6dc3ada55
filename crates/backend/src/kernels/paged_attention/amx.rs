//! `paged_attention` of prompts in bf16 tiles: 64 positions with 32 queries at a
//! time, scores and results a query a lane, softmax in f32 between.
//!
//! Keys are the rows of one factor as they are stored, and queries the columns of
//! the other. So scores come out with a query in each lane, and the softmax, which
//! goes over positions, needs no sum or maximum across lanes. Values are turned
//! round once for all queries of a task; results, when it ends.
//!
//! Queries, keys, values and shares are rounded to bf16, as a bf16 cache would
//! round keys and values; everything else is f32.

use super::cpu::{Attend, BLOCK, Place, Queries};
use crate::cpu::activations::{TILE_COLS, TILE_ROWS};
use crate::cpu::amx::Tiles;
use crate::cpu::math::{exp_lanes, softcap};
use crate::cpu::run::Sizes;
use crate::cpu::shared::{Bump, Shared};
use crate::cpu::simd::{Kernel, LANES, Rows, Simd, Words};
use crate::cpu::stored::{Bf16, F16, F32, Fp8, Q8_0, Stored};
use crate::host::HostLayer;
use crate::{CacheLayerConfig, Isa, KvFormat};

/// Queries that are multiplied together: two tiles of columns.
const PAIR: usize = 2 * LANES;

/// A number for each of them.
type Row = [[f32; LANES]; 2];

/// Below any score: a position that is not seen.
const UNSEEN: f32 = -1e30;

/// Each thread's room, for as many queries as a task may have, in pairs of tiles.
#[derive(Clone, Copy)]
pub(super) struct Scratch<'s> {
    /// For each sixteen queries: tiles of 32 dimensions, `[2 dimensions, query]`.
    queries: Shared<'s, Words>,
    /// For each sixteen positions: tiles of 32 dimensions, `[position, 2 dimensions]`.
    keys: Shared<'s, Words>,
    /// For each sixteen dimensions: tiles of 32 positions, `[dimension, 2 positions]`.
    values: Shared<'s, Words>,
    /// What is to be turned round: sixteen queries `[query, 2 dimensions]`, or the values
    /// of a block, `[2 positions, dimension]`.
    flat: Shared<'s, Words>,
    /// Of a pair of tiles of queries: `[position, query]`.
    scores: Shared<'s, Row>,
    /// For each sixteen of them: tiles of 32 positions, `[2 positions, query]`.
    shares: Shared<'s, Words>,
    /// For each pair of tiles of queries: `[dimension, query]`.
    sums: Shared<'s, Row>,
    /// Of each query, the largest score so far, and the sum of what shares are of.
    totals: Shared<'s, [[f32; LANES]; 2]>,
    sizes: RoomSizes,
}

/// What a thread's room is for.
#[derive(Clone, Copy)]
struct RoomSizes {
    /// Pairs of tiles of queries.
    pairs: usize,
    /// Tiles of a key or query.
    k_tiles: usize,
    /// Tiles of a value.
    v_tiles: usize,
}

impl RoomSizes {
    const fn queries(self) -> usize {
        2 * self.pairs * self.k_tiles * TILE_ROWS
    }

    const fn keys(self) -> usize {
        BLOCK * self.k_tiles
    }

    const fn values(self) -> usize {
        self.v_tiles * BLOCK / 2
    }

    const fn flat(self) -> usize {
        let (queries, values) = (LANES * self.k_tiles, self.v_tiles * BLOCK / 2);
        if queries > values { queries } else { values }
    }

    const fn sums(self) -> usize {
        self.pairs * self.v_tiles * TILE_ROWS
    }
}

/// One thread's part of it.
pub(super) struct Room<'a> {
    queries: &'a mut [Words],
    keys: &'a mut [Words],
    values: &'a mut [Words],
    flat: &'a mut [Words],
    scores: &'a mut [Row],
    shares: &'a mut [Words],
    sums: &'a mut [Row],
    totals: &'a mut [[[f32; LANES]; 2]],
    sizes: RoomSizes,
}

impl<'s> Scratch<'s> {
    /// Room for `n_queries` queries of a task; none where there are no tiles.
    pub fn take(bump: &mut Bump<'s>, sizes: &Sizes<'_>, layer: &CacheLayerConfig, n_queries: usize) -> Self {
        let threads = if sizes.isa.has_tiles() { sizes.threads } else { 0 };
        let sizes = RoomSizes {
            pairs: n_queries.div_ceil(PAIR),
            k_tiles: layer.k_dim.div_ceil(TILE_COLS),
            // Two tiles of dimensions are multiplied together.
            v_tiles: layer.v_dim.div_ceil(2 * TILE_ROWS) * 2,
        };
        let each = |n: usize| threads.saturating_mul(n);
        Self {
            queries: bump.take(each(sizes.queries())),
            keys: bump.take(each(sizes.keys())),
            values: bump.take(each(sizes.values())),
            flat: bump.take(each(sizes.flat())),
            scores: bump.take(each(BLOCK)),
            shares: bump.take(each(BLOCK)),
            sums: bump.take(each(sizes.sums())),
            totals: bump.take(each(2 * sizes.pairs)),
            sizes,
        }
    }

    pub fn room(self, thread: usize) -> Room<'s> {
        let sizes = self.sizes;
        // SAFETY: each thread takes its own part of each.
        unsafe {
            Room {
                queries: self.queries.write(thread * sizes.queries(), sizes.queries()),
                keys: self.keys.write(thread * sizes.keys(), sizes.keys()),
                values: self.values.write(thread * sizes.values(), sizes.values()),
                flat: self.flat.write(thread * sizes.flat(), sizes.flat()),
                scores: self.scores.write(thread * BLOCK, BLOCK),
                shares: self.shares.write(thread * BLOCK, BLOCK),
                sums: self.sums.write(thread * sizes.sums(), sizes.sums()),
                totals: self.totals.write(thread * 2 * sizes.pairs, 2 * sizes.pairs),
                sizes,
            }
        }
    }
}

/// One task.
pub(super) struct AttendTiles<'a> {
    pub attend: Attend<'a>,
    pub tiles: Room<'a>,
    pub isa: Isa,
}

impl Kernel for AttendTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let registers = Tiles::configure(self.isa);
        self.start::<S>();
        let queries = self.attend.queries;
        let (first, n_rows, n_queries) = (queries.first_position, queries.n_rows, queries.len());
        let end = first + n_rows;
        let mut position = self.attend.oldest(first) / BLOCK * BLOCK;
        while position < end {
            let n = BLOCK.min(end - position);
            self.load_keys::<S>(position, n);
            self.load_values::<S>(position, n);
            for pair in 0..n_queries.div_ceil(PAIR) {
                // Queries are in order of positions.
                let last = queries.position((PAIR * (pair + 1)).min(n_queries) - 1);
                if last >= position {
                    let n = n.min(last + 1 - position).next_multiple_of(TILE_COLS);
                    self.scores(&registers, pair, n);
                    for half in 0..2 {
                        self.cap(half, n);
                        let seen = Seen::of(self.attend.layer, queries, 2 * pair + half);
                        if seen.all(position, n) {
                            self.shares::<S, true>(pair, half, &seen, position, n);
                        } else {
                            self.shares::<S, false>(pair, half, &seen, position, n);
                        }
                    }
                    self.results(&registers, pair, n);
                }
            }
            position += BLOCK;
        }
        self.finish::<S>();
    }
}

impl AttendTiles<'_> {
    /// Packs the queries, and resets sums and totals.
    #[inline(always)]
    fn start<S: Simd>(&mut self) {
        let k_tiles = self.tiles.sizes.k_tiles;
        for tile in 0..2 * self.tiles.sizes.pairs {
            for i in 0..LANES {
                self.flat_query::<S>(tile * LANES + i, i);
            }
            let rows = Rows::new(self.tiles.flat.as_ptr().cast(), k_tiles * size_of::<Words>());
            let out = &mut self.tiles.queries[tile * k_tiles * TILE_ROWS..][..k_tiles * TILE_ROWS];
            // SAFETY: sixteen rows of `k_tiles` times sixteen words are there.
            unsafe { turn::<S>(&rows, 0, out) };
        }
        self.tiles.sums.fill([[0.0; LANES]; 2]);
        self.tiles.totals.fill([[UNSEEN; LANES], [0.0; LANES]]);
    }

    /// Rounds query `i` to row `row` of what is to be turned round; zero if there is none.
    #[inline(always)]
    fn flat_query<S: Simd>(&mut self, i: usize, row: usize) {
        let attend = &self.attend;
        let (k_dim, queries) = (attend.layer.config.k_dim, &attend.queries);
        let k_tiles = self.tiles.sizes.k_tiles;
        let out = &mut self.tiles.flat[row * k_tiles..][..k_tiles];
        if i >= queries.len() {
            out.fill([0; LANES]);
            return;
        }
        let (row, head) = queries.row_and_head(i);
        // SAFETY: nobody writes q while attention runs.
        let all = unsafe { attend.q.row(row) };
        let scale = S::splat(attend.op.scale);
        for (x, out) in all[head * k_dim..][..k_dim].chunks(TILE_COLS).zip(out) {
            let mut whole = [0.0; TILE_COLS];
            whole[..x.len()].copy_from_slice(x);
            let halves = whole.as_chunks::<LANES>().0;
            let (a, b) = (S::mul(S::load(&halves[0]), scale), S::mul(S::load(&halves[1]), scale));
            S::store_u32(S::pack_bf16(a, b), out);
        }
    }

    /// Rounds the keys of `n` positions from `position` on, zero beyond.
    #[inline(always)]
    fn load_keys<S: Simd>(&mut self, position: usize, n: usize) {
        let CacheLayerConfig { k_format, k_dim, .. } = self.attend.layer.config;
        let k_tiles = self.tiles.sizes.k_tiles;
        let size = k_format.bytes(k_dim);
        let place = Place::of(&self.attend);
        let (stored, room) = (self.attend.layer.k.as_slice(), &mut *self.attend.room.stored);
        for (first, out) in (0..BLOCK).step_by(LANES).zip(self.tiles.keys.chunks_exact_mut(k_tiles * LANES)) {
            let there = n.saturating_sub(first).min(LANES);
            if there == 0 {
                out.fill([0; LANES]);
                continue;
            }
            place.prefetch(position + first + BLOCK, LANES, stored, size);
            let keys = place.sixteen(position + first, there, (stored, size), room);
            for (row, key) in keys.chunks_exact(size).take(LANES).enumerate() {
                for t in 0..k_tiles {
                    let out = &mut out[t * TILE_ROWS + row];
                    if row < there {
                        let (a, b) = (
                            sixteen::<S>(k_format, key, k_dim, 2 * t),
                            sixteen::<S>(k_format, key, k_dim, 2 * t + 1),
                        );
                        S::store_u32(S::pack_bf16(a, b), out);
                    } else {
                        *out = [0; LANES];
                    }
                }
            }
        }
    }

    /// Rounds the values of `n` positions from `position` on, zero beyond, and turns
    /// them round.
    #[inline(always)]
    fn load_values<S: Simd>(&mut self, position: usize, n: usize) {
        let CacheLayerConfig { v_format, v_dim, .. } = self.attend.layer.config;
        let v_tiles = self.tiles.sizes.v_tiles;
        let size = v_format.bytes(v_dim);
        let place = Place::of(&self.attend);
        let (stored, room) = (self.attend.layer.v.as_slice(), &mut *self.attend.room.stored);
        for (first, out) in
            (0..BLOCK).step_by(LANES).zip(self.tiles.flat.chunks_exact_mut(v_tiles * LANES / 2))
        {
            let there = n.saturating_sub(first).min(LANES);
            if there == 0 {
                out.fill([0; LANES]);
                continue;
            }
            place.prefetch(position + first + BLOCK, LANES, stored, size);
            let values = place.sixteen(position + first, there, (stored, size), room);
            let pairs = values[..LANES * size].chunks_exact(2 * size);
            for (i, (pair, out)) in pairs.zip(out.chunks_exact_mut(v_tiles)).enumerate() {
                let (low, high) = pair.split_at(size);
                let zero = S::splat(0.0);
                for (c, out) in out.iter_mut().enumerate() {
                    let low = if 2 * i < there { sixteen::<S>(v_format, low, v_dim, c) } else { zero };
                    let high = if 2 * i + 1 < there { sixteen::<S>(v_format, high, v_dim, c) } else { zero };
                    S::store_u32(S::pair_bf16(low, high), out);
                }
            }
        }
        for half in 0..BLOCK / TILE_COLS {
            let from = self.tiles.flat[half * LANES * v_tiles..][..LANES * v_tiles].as_ptr();
            let rows = Rows::new(from.cast(), v_tiles * size_of::<Words>());
            for (tile, out) in self.tiles.values.chunks_exact_mut(BLOCK / 2).enumerate() {
                // SAFETY: sixteen rows of `v_tiles` times sixteen words are there.
                unsafe { turn::<S>(&rows, tile * size_of::<Words>(), &mut out[half * LANES..][..LANES]) };
            }
        }
    }

    /// The scores of a pair of tiles of queries with `n` positions.
    #[inline(always)]
    fn scores(&mut self, registers: &Tiles, pair: usize, n: usize) {
        let k_tiles = self.tiles.sizes.k_tiles;
        let n_words = k_tiles * TILE_ROWS;
        let run = |words: &[Words], i: usize| words[i * n_words..][..n_words].as_ptr().cast();
        let queries = [run(self.tiles.queries, 2 * pair), run(self.tiles.queries, 2 * pair + 1)];
        for (i, scores) in self.tiles.scores[..n].as_chunks_mut().0.iter_mut().enumerate() {
            let keys = [run(self.tiles.keys, 2 * i), run(self.tiles.keys, 2 * i + 1)];
            // SAFETY: keys and queries have `k_tiles` tiles each.
            unsafe { registers.multiply(keys, queries, k_tiles, quarters(scores), PAIR) };
        }
    }

    /// Caps the scores of half a pair, where the model does.
    #[inline(always)]
    fn cap(&mut self, half: usize, n: usize) {
        let cap = self.attend.op.softcap;
        if cap.is_some() {
            for score in self.tiles.scores[..n].iter_mut().flat_map(|row| &mut row[half]) {
                *score = softcap(*score, cap);
            }
        }
    }

    /// Turns the scores of sixteen queries, half a pair, with `n` positions from `position`
    /// on into their shares, and shrinks their sums where the largest score grew.
    #[inline(always)]
    fn shares<S: Simd, const ALL: bool>(
        &mut self,
        pair: usize,
        half: usize,
        seen: &Seen,
        position: usize,
        n: usize,
    ) {
        let v_dims = self.tiles.sizes.v_tiles * TILE_ROWS;
        let scores = self.tiles.scores[..n].as_chunks_mut::<4>().0;
        let [max, total] = &mut self.tiles.totals[2 * pair + half];
        let old = S::load(max);
        let mut largest = [old; 4];
        for (i, scores) in scores.iter_mut().enumerate() {
            for (j, row) in scores.iter_mut().enumerate() {
                let score = &mut row[half];
                if !ALL {
                    seen.hide::<S>(position + 4 * i + j, score);
                }
                largest[j] = S::max(S::load(score), largest[j]);
            }
        }
        let largest = S::max(S::max(largest[0], largest[1]), S::max(largest[2], largest[3]));
        S::store(largest, max);
        let minus = S::mul(largest, S::splat(-1.0));
        let growth = S::add(largest, S::mul(old, S::splat(-1.0)));
        if S::largest(growth) > 0.0 {
            let shrink = exp_lanes::<S>(S::mul(growth, S::splat(-1.0)));
            S::store(S::mul(S::load(total), shrink), total);
            for sum in &mut self.tiles.sums[pair * v_dims..][..v_dims] {
                S::store(S::mul(S::load(&sum[half]), shrink), &mut sum[half]);
            }
        }
        let shares = self.tiles.shares[half * BLOCK / 2..].as_chunks_mut::<2>().0;
        let mut sums = [S::load(total), S::splat(0.0), S::splat(0.0), S::splat(0.0)];
        for (i, (scores, out)) in scores.iter().zip(shares).enumerate() {
            let mut values = sums;
            for (j, row) in scores.iter().enumerate() {
                values[j] = exp_lanes::<S>(S::add(S::load(&row[half]), minus));
                if !ALL {
                    let mask = S::load_u32(&seen.mask(position + 4 * i + j));
                    values[j] = S::from_bits(S::and(S::bits(values[j]), mask));
                }
                sums[j] = S::add(sums[j], values[j]);
            }
            S::store_u32(S::pair_bf16(values[0], values[1]), &mut out[0]);
            S::store_u32(S::pair_bf16(values[2], values[3]), &mut out[1]);
        }
        S::store(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])), total);
    }

    /// Adds the values of `n` positions to the sums of a pair of tiles of queries.
    #[inline(always)]
    fn results(&mut self, registers: &Tiles, pair: usize, n: usize) {
        let v_dims = self.tiles.sizes.v_tiles * TILE_ROWS;
        let run = |words: &[Words], i: usize| words[i * BLOCK / 2..][..BLOCK / 2].as_ptr().cast();
        let shares = [run(self.tiles.shares, 0), run(self.tiles.shares, 1)];
        let sums = &mut self.tiles.sums[pair * v_dims..][..v_dims];
        for (i, sums) in sums.as_chunks_mut().0.iter_mut().enumerate() {
            let values = [run(self.tiles.values, 2 * i), run(self.tiles.values, 2 * i + 1)];
            // SAFETY: shares and values have a block's tiles each, of which `n` positions take some.
            unsafe { registers.multiply_add(values, shares, n / TILE_COLS, quarters(sums), PAIR) };
        }
    }

    /// Divides by the totals and writes the results.
    #[inline(always)]
    fn finish<S: Simd>(&mut self) {
        let (queries, v_dim) = (self.attend.queries, self.attend.layer.config.v_dim);
        let v_tiles = self.tiles.sizes.v_tiles;
        let mut results = [[0; LANES]; LANES];
        for tile in 0..queries.len().div_ceil(LANES) {
            let [_, totals] = &self.tiles.totals[tile];
            let (pair, half) = (tile / 2, tile % 2);
            for (t, first) in (0..v_dim).step_by(LANES).enumerate() {
                let sums = &self.tiles.sums[(pair * v_tiles + t) * TILE_ROWS..][..TILE_ROWS];
                let rows = Rows::new(sums.as_ptr().cast(), size_of::<Row>());
                // SAFETY: sixteen rows of a pair of vectors are there.
                unsafe { turn::<S>(&rows, half * size_of::<Words>(), &mut results) };
                let there = tile * LANES..queries.len().min((tile + 1) * LANES);
                for ((i, result), total) in there.zip(&results).zip(totals) {
                    let result = S::mul(S::from_bits(S::load_u32(result)), S::splat(1.0 / total));
                    let (row, head) = queries.row_and_head(i);
                    let n = LANES.min(v_dim - first);
                    // SAFETY: only this task has these rows of this head.
                    let out = unsafe { self.attend.out.part(row, head * v_dim + first, n) };
                    if let Some(out) = out.as_mut_array() {
                        S::store(result, out);
                        continue;
                    }
                    let mut whole = [0.0; LANES];
                    S::store(result, &mut whole);
                    out.copy_from_slice(&whole[..n]);
                }
            }
        }
    }
}

/// What sixteen queries see.
struct Seen {
    /// The last position, the query's own.
    last: [u32; LANES],
    /// The first.
    first: [u32; LANES],
}

impl Seen {
    /// Of queries `16 * tile` and the following, there or not.
    #[inline(always)]
    fn of(layer: &HostLayer, queries: Queries, tile: usize) -> Self {
        let (mut last, mut first) = ([0; LANES], [0; LANES]);
        for (i, (last, first)) in last.iter_mut().zip(&mut first).enumerate() {
            let position = queries.position(tile * LANES + i) as u32;
            *last = position;
            *first = layer.oldest(position as usize) as u32;
        }
        Self { last, first }
    }

    /// Whether all of them see all of `n` positions from `position` on.
    #[inline(always)]
    fn all(&self, position: usize, n: usize) -> bool {
        // Queries are in order of positions.
        position >= self.first[LANES - 1] as usize && position + n <= self.last[0] as usize + 1
    }

    /// All bits set where `position` is seen.
    #[inline(always)]
    fn mask(&self, position: usize) -> Words {
        let position = position as u32;
        let mut mask = [0; LANES];
        for ((mask, first), last) in mask.iter_mut().zip(self.first).zip(self.last) {
            *mask = u32::from((first <= position) & (position <= last)).wrapping_neg();
        }
        mask
    }

    /// Lowers the scores of those that do not see `position`.
    #[inline(always)]
    fn hide<S: Simd>(&self, position: usize, scores: &mut [f32; LANES]) {
        let mask = S::load_u32(&self.mask(position));
        let unseen = S::and(S::xor(mask, S::splat_u32(!0)), S::bits(S::splat(UNSEEN)));
        S::store(S::from_bits(S::or(S::and(S::bits(S::load(scores)), mask), unseen)), scores);
    }
}

/// Where tiles of 32 rows for a pair of tiles of queries start.
fn quarters(rows: &mut [Row; 2 * TILE_ROWS]) -> [[*mut f32; 2]; 2] {
    let start = rows.as_mut_ptr().cast::<f32>();
    let half = |start: *mut f32| [start, start.wrapping_add(LANES)];
    [half(start), half(start.wrapping_add(TILE_ROWS * PAIR))]
}

/// Elements `16 * c` and the following of a stored vector, zero beyond its end.
#[inline(always)]
fn sixteen<S: Simd>(format: KvFormat, stored: &[u8], dim: usize, c: usize) -> S::F32 {
    match format {
        KvFormat::F32 => sixteen_of::<S, F32>(stored, dim, c),
        KvFormat::F16 => sixteen_of::<S, F16>(stored, dim, c),
        KvFormat::BF16 => sixteen_of::<S, Bf16>(stored, dim, c),
        KvFormat::Q8_0 => sixteen_of::<S, Q8_0>(stored, dim, c),
        KvFormat::Fp8 => sixteen_of::<S, Fp8>(stored, dim, c),
    }
}

#[inline(always)]
fn sixteen_of<S: Simd, K: Stored>(stored: &[u8], dim: usize, c: usize) -> S::F32 {
    let x = K::vector(stored, dim);
    if c < dim / LANES {
        K::load::<S>(x, c)
    } else if c * LANES < dim {
        K::load_rest::<S>(x)
    } else {
        S::splat(0.0)
    }
}

/// Turns words round: word `i` from `at` bytes of each of sixteen rows is `out[i]`,
/// a multiple of four in all.
///
/// # Safety
/// The rows are that long.
#[inline(always)]
unsafe fn turn<S: Simd>(rows: &Rows, at: usize, out: &mut [Words]) {
    for (i, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let words = unsafe { S::columns(rows, at + 16 * i) };
        for (words, out) in words.into_iter().zip(out) {
            S::store_u32(words, out);
        }
    }
}
