//! `paged_attention` on the CPU. Generated rows have [a file of their own](super::generated).
//!
//! Prompts are cut into tasks of a few rows of one sequence and one key/value
//! head, each walking the positions once, block by block.
//!
//! Keys and values of a block are widened to panels, as weights are: scores are
//! products of keys with a tile of queries, a position a lane, and results are
//! products of values with their shares, a dimension a lane.
//!
//! Blocks start at fixed absolute positions, with a running maximum and sum for
//! each query, and what a query does not see has no share. So its result does
//! not depend on the rows it shares a task with.

use std::ops::Range;

use super::PagedAttention;
use super::generated::{self, Generated};
use crate::cpu::activations::TILE;
use crate::cpu::math::{exp, exp_lanes, softcap};
use crate::cpu::panel::{halves, singles};
use crate::cpu::run::{Matrix, Run, Sizes};
use crate::cpu::shared::{Bump, Shared};
use crate::cpu::simd::{Kernel, LANES, Rows, Simd, dispatch};
use crate::cpu::stored::widen;
use crate::cpu::tile::floats;
use crate::host::HostLayer;
use crate::{CacheLayerConfig, KvFormat, NO_PAGE, Role, SequenceInputs};

/// Rows that share a task, and so the widening of keys and values.
pub(super) const ROWS: usize = 32;

/// Positions that are taken at once.
pub(super) const BLOCK: usize = 64;

/// Each thread's room.
#[derive(Clone, Copy)]
pub(crate) struct Scratch<'s> {
    /// Keys of a block: for each sixteen positions `[k_dim]`.
    keys: Shared<'s, [f32; LANES]>,
    /// Values of a block: for each sixteen dimensions `[BLOCK]`.
    values: Shared<'s, [f32; LANES]>,
    /// Sixteen keys or values as they are stored.
    stored: Shared<'s, u8>,
    /// Sixteen keys as floats: `[key, k_panels]`.
    wide: Shared<'s, [f32; LANES]>,
    /// Tiles of queries, multiplied by the scale: `[k_dim, rows of the tile]`.
    queries: Shared<'s, u32>,
    /// Of each query, `[v_dim]` rounded up.
    sums: Shared<'s, [f32; LANES]>,
    /// Of each query: running maximum and total.
    totals: Shared<'s, f32>,
    generated: generated::Scratch<'s>,
    #[cfg(target_arch = "x86_64")]
    tiles: super::amx::Scratch<'s>,
}

impl PagedAttention {
    pub(crate) fn cpu_scratch<'s>(&self, sizes: &Sizes<'_>, bump: &mut Bump<'s>) -> Scratch<'s> {
        let layer = &sizes.cache.layers[self.cache.0 as usize];
        let n_queries = ROWS * (self.n_heads / layer.n_kv_heads);
        let each = |n: usize| sizes.threads.saturating_mul(n);
        Scratch {
            keys: bump.take(each(BLOCK / LANES * layer.k_dim)),
            values: bump.take(each(layer.v_dim.div_ceil(LANES) * BLOCK)),
            stored: bump.take(each(stored_bytes(layer))),
            wide: bump.take(each(layer.k_dim.next_multiple_of(LANES))),
            queries: bump.take(each(n_queries * layer.k_dim)),
            sums: bump.take(each(n_queries * layer.v_dim.div_ceil(LANES))),
            totals: bump.take(each(n_queries * 2)),
            generated: generated::Scratch::take(bump, sizes, layer, self.n_heads),
            #[cfg(target_arch = "x86_64")]
            tiles: super::amx::Scratch::take(bump, sizes, layer, n_queries),
        }
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let scratch = self.cpu_scratch(&run.sizes, bump);
        let (q, out, isa) = (run.matrix(self.q), run.matrix(self.out), run.isa);
        let layer = &run.layers[self.cache.0 as usize];
        let (group, sequences) = (&run.inputs.groups[layer.config.group], &run.inputs.sequences);
        let generated =
            Generated { op: self, isa, layer, group, sequences, q, out, scratch: scratch.generated };
        generated.run(run.pool);
        let n_blocks: usize = sequences.iter().map(n_blocks).sum();
        let n_kv_heads = layer.config.n_kv_heads;
        let heads = self.n_heads / n_kv_heads;
        run.pool.for_each_range(n_blocks * n_kv_heads, 1, |thread, tasks| {
            for task in tasks {
                // The last rows see most, so they come first.
                let (block, kv_head) = (n_blocks - 1 - task / n_kv_heads, task % n_kv_heads);
                let (sequence, first_row, first, n_rows) = find_block(sequences, block);
                let table = &group.block_tables[sequence * group.max_pages..][..group.max_pages];
                let room = Room::new(scratch, thread, heads, layer);
                #[cfg(target_arch = "x86_64")]
                let tiles = isa.has_tiles().then(|| scratch.tiles.room(thread));
                let queries = Queries { first_row, first_position: first, n_rows, kv_head, heads };
                let attend = Attend { op: self, layer, table, queries, q, out, room };
                #[cfg(target_arch = "x86_64")]
                if let Some(tiles) = tiles {
                    dispatch(isa, super::amx::AttendTiles { attend, tiles, isa });
                    continue;
                }
                dispatch(isa, attend);
            }
        });
    }
}

/// Bytes that sixteen keys, or values, take.
fn stored_bytes(layer: &CacheLayerConfig) -> usize {
    LANES * layer.k_format.bytes(layer.k_dim).max(layer.v_format.bytes(layer.v_dim))
}

/// Blocks of a prompt's rows.
fn n_blocks(sequence: &SequenceInputs) -> usize {
    match sequence.role {
        Role::Prompt => (sequence.n_rows as usize).div_ceil(ROWS),
        Role::Generated => 0,
    }
}

/// Block `block` of all prompts' rows: its sequence, its first row in the
/// step, that row's position, and its number of rows.
fn find_block(sequences: &[SequenceInputs], mut block: usize) -> (usize, usize, usize, usize) {
    let mut row = 0;
    for (i, sequence) in sequences.iter().enumerate() {
        let n_rows = sequence.n_rows as usize;
        let n_blocks = n_blocks(sequence);
        if block < n_blocks {
            let start = block * ROWS;
            let position = sequence.n_context as usize - n_rows + start;
            return (i, row + start, position, ROWS.min(n_rows - start));
        }
        block -= n_blocks;
        row += n_rows;
    }
    unreachable!("there are as many blocks as were counted");
}

/// The queries of a task: query `i` is head `i % heads` of row `i / heads`.
#[derive(Clone, Copy)]
pub(super) struct Queries {
    pub first_row: usize,
    pub first_position: usize,
    pub n_rows: usize,
    pub kv_head: usize,
    pub heads: usize,
}

impl Queries {
    pub fn len(&self) -> usize {
        self.n_rows * self.heads
    }

    /// The row of the step and the head of query `i`.
    pub fn row_and_head(&self, i: usize) -> (usize, usize) {
        (self.first_row + i / self.heads, self.kv_head * self.heads + i % self.heads)
    }

    /// The position of query `i`.
    pub fn position(&self, i: usize) -> usize {
        self.first_position + i / self.heads
    }
}

/// One thread's part of the scratch.
pub(super) struct Room<'a> {
    keys: &'a mut [[f32; LANES]],
    values: &'a mut [[f32; LANES]],
    pub stored: &'a mut [u8],
    wide: &'a mut [[f32; LANES]],
    queries: &'a mut [u32],
    sums: &'a mut [[f32; LANES]],
    totals: &'a mut [f32],
}

impl<'a> Room<'a> {
    fn new(scratch: Scratch<'a>, thread: usize, heads: usize, layer: &HostLayer) -> Self {
        let (k_dim, v_panels) = (layer.config.k_dim, layer.config.v_dim.div_ceil(LANES));
        let n_queries = ROWS * heads;
        // SAFETY: each thread takes its own part.
        let floats = |all: Shared<'a, [f32; LANES]>, n: usize| unsafe { all.write(thread * n, n) };
        let n_stored = stored_bytes(&layer.config);
        Self {
            keys: floats(scratch.keys, BLOCK / LANES * k_dim),
            values: floats(scratch.values, v_panels * BLOCK),
            // SAFETY: as above.
            stored: unsafe { scratch.stored.write(thread * n_stored, n_stored) },
            wide: floats(scratch.wide, k_dim.next_multiple_of(LANES)),
            // SAFETY: as above.
            queries: unsafe { scratch.queries.write(thread * n_queries * k_dim, n_queries * k_dim) },
            sums: floats(scratch.sums, n_queries * v_panels),
            // SAFETY: as above.
            totals: unsafe { scratch.totals.write(thread * n_queries * 2, n_queries * 2) },
        }
    }
}

/// One task.
pub(super) struct Attend<'a> {
    pub op: &'a PagedAttention,
    pub layer: &'a HostLayer,
    table: &'a [u32],
    pub queries: Queries,
    pub q: Matrix<'a>,
    pub out: Matrix<'a>,
    pub room: Room<'a>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        self.start();
        let (first, n_rows) = (self.queries.first_position, self.queries.n_rows);
        let end = first + n_rows;
        let mut position = self.oldest(first) / BLOCK * BLOCK;
        while position < end {
            let n = BLOCK.min(end - position);
            self.load::<S>(position, n);
            for tile in 0..self.queries.len().div_ceil(TILE) {
                match TILE.min(self.queries.len() - tile * TILE) {
                    1 => self.tile::<S, 1>(tile, position),
                    2 => self.tile::<S, 2>(tile, position),
                    3 => self.tile::<S, 3>(tile, position),
                    4 => self.tile::<S, 4>(tile, position),
                    5 => self.tile::<S, 5>(tile, position),
                    6 => self.tile::<S, 6>(tile, position),
                    7 => self.tile::<S, 7>(tile, position),
                    _ => self.tile::<S, TILE>(tile, position),
                }
            }
            position += BLOCK;
        }
        self.finish();
    }
}

impl Attend<'_> {
    /// The first position that the row at `position` sees.
    #[inline(always)]
    pub fn oldest(&self, position: usize) -> usize {
        self.layer.oldest(position)
    }

    /// Packs the queries, and resets sums and totals.
    #[inline(always)]
    fn start(&mut self) {
        let k_dim = self.layer.config.k_dim;
        let queries = &self.queries;
        for i in 0..queries.len() {
            let (row, head) = queries.row_and_head(i);
            // SAFETY: nobody writes q while attention runs.
            let row = unsafe { self.q.row(row) };
            let first = i / TILE * TILE;
            let n = TILE.min(queries.len() - first);
            let tile = &mut self.room.queries[first * k_dim..][..n * k_dim];
            for (out, x) in tile.chunks_exact_mut(n).zip(&row[head * k_dim..][..k_dim]) {
                out[i - first] = (x * self.op.scale).to_bits();
            }
        }
        self.reset();
    }

    /// Resets sums and totals.
    #[inline(always)]
    pub fn reset(&mut self) {
        let n = self.queries.len();
        let v_panels = self.layer.config.v_dim.div_ceil(LANES);
        self.room.sums[..n * v_panels].as_flattened_mut().fill(0.0);
        for total in &mut self.room.totals.as_chunks_mut::<2>().0[..n] {
            *total = [f32::NEG_INFINITY, 0.0];
        }
    }

    /// Widens keys and values of positions `position..position + n`, sixteen at a
    /// time; what follows the last position has any value.
    #[inline(always)]
    fn load<S: Simd>(&mut self, position: usize, n: usize) {
        let CacheLayerConfig { k_format, v_format, k_dim, v_dim, .. } = self.layer.config;
        let (k, v) = (self.layer.k.as_slice(), self.layer.v.as_slice());
        let (k_size, v_size) = (k_format.bytes(k_dim), v_format.bytes(v_dim));
        for first in (0..n).step_by(LANES) {
            let (at, n) = (position + first, LANES.min(n - first));
            let place = Place::of(self);
            place.prefetch(at + BLOCK, LANES, k, k_size);
            place.prefetch(at + BLOCK, LANES, v, v_size);
            let keys = place.sixteen(at, n, (k, k_size), self.room.stored);
            let rows = Rows::new(keys.as_ptr(), k_size);
            let out = &mut self.room.keys[first / LANES * k_dim..][..k_dim];
            match k_format {
                KvFormat::F32 => singles::<S>(&rows, 0..k_dim, out),
                KvFormat::F16 => halves::<S, false>(&rows, 0..k_dim, out),
                KvFormat::BF16 => halves::<S, true>(&rows, 0..k_dim, out),
                KvFormat::Q8_0 | KvFormat::Fp8 => {
                    let panels = k_dim.div_ceil(LANES);
                    widen::<S>(k_format, &keys[..LANES * k_size], k_dim, [1, panels], self.room.wide);
                    let rows = Rows::new(self.room.wide.as_ptr().cast(), panels * size_of::<[f32; LANES]>());
                    singles::<S>(&rows, 0..k_dim, out);
                }
            }
            let values = place.sixteen(at, n, (v, v_size), self.room.stored);
            widen::<S>(
                v_format,
                &values[..LANES * v_size],
                v_dim,
                [BLOCK, 1],
                &mut self.room.values[first..],
            );
        }
    }

    /// Adds a block to the sums of a tile's `T` queries.
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(&mut self, tile: usize, position: usize) {
        let (k_dim, first) = (self.layer.config.k_dim, tile * TILE);
        let last = self.queries.position(first + T - 1);
        if last < position {
            return;
        }
        // What the last of the queries sees; none sees more of a block's end.
        let seen = BLOCK.min(last + 1 - position);
        let queries = &self.room.queries[first * k_dim..][..T * k_dim];
        let mut scores = [[f32::NEG_INFINITY; BLOCK]; T];
        for (panel, keys) in self.room.keys.chunks_exact(k_dim).take(seen.div_ceil(LANES)).enumerate() {
            let mut sums = [S::splat(0.0); T];
            floats::<S, T>(keys, queries, &mut sums);
            for t in 0..T {
                S::store(sums[t], &mut scores[t].as_chunks_mut::<LANES>().0[panel]);
            }
        }
        let mut shares = [0; BLOCK * TILE];
        let mut shrink = [1.0; T];
        for t in 0..T {
            let at = self.queries.position(first + t);
            let from = self.oldest(at).saturating_sub(position);
            let to = (at + 1).saturating_sub(position).min(BLOCK);
            if from >= to {
                continue;
            }
            let total = &mut self.room.totals.as_chunks_mut::<2>().0[first + t];
            shrink[t] = share::<S>(&mut scores[t], from..to, self.op.softcap, total);
            for (j, share) in scores[t][..seen].iter().enumerate() {
                shares[j * T + t] = share.to_bits();
            }
        }
        let v_panels = self.layer.config.v_dim.div_ceil(LANES);
        let sums = &mut self.room.sums[first * v_panels..][..T * v_panels];
        for (panel, values) in self.room.values.chunks_exact(BLOCK).enumerate() {
            let mut products = [S::splat(0.0); T];
            floats::<S, T>(&values[..seen], &shares[..seen * T], &mut products);
            for t in 0..T {
                let sum = &mut sums[t * v_panels + panel];
                S::store(S::mul_add(S::load(sum), S::splat(shrink[t]), products[t]), sum);
            }
        }
    }

    /// Divides by the totals and writes the results.
    #[inline(always)]
    fn finish(&mut self) {
        let v_dim = self.layer.config.v_dim;
        let queries = &self.queries;
        let sums = self.room.sums.chunks_exact(v_dim.div_ceil(LANES));
        let totals = self.room.totals.as_chunks::<2>().0;
        for (i, (sums, [_, total])) in sums.zip(totals).take(queries.len()).enumerate() {
            let (row, head) = queries.row_and_head(i);
            // SAFETY: only this task has these rows of this head.
            let out = unsafe { self.out.part(row, head * v_dim, v_dim) };
            let inverse = 1.0 / total;
            for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out = sum * inverse;
            }
        }
    }
}

/// Where a key/value head's vectors of one sequence lie.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub layer: &'a HostLayer,
    pub table: &'a [u32],
    pub kv_head: usize,
}

impl<'a> Place<'a> {
    /// That of a task.
    #[inline(always)]
    pub fn of(attend: &Attend<'a>) -> Self {
        Self { layer: attend.layer, table: attend.table, kv_head: attend.queries.kv_head }
    }

    /// The number of the vector at `position`; `None` if its page was freed or is not there.
    #[inline(always)]
    fn vector(&self, position: usize) -> Option<usize> {
        let page_size = self.layer.page_size;
        let page = *self.table.get(position / page_size)?;
        let slot = page as usize * page_size + position % page_size;
        (page != NO_PAGE).then(|| self.layer.vector(slot, self.kv_head))
    }

    /// The stored vectors of `n` positions from `position` on, `size` bytes each,
    /// followed by others of any value up to sixteen: where they lie, if they are
    /// in one page, else copied to `room`. Pages that were freed are before what
    /// any row sees; they read as zero.
    #[inline(always)]
    pub fn sixteen<'r>(
        &self,
        position: usize,
        n: usize,
        (stored, size): (&'r [u8], usize),
        room: &'r mut [u8],
    ) -> &'r [u8] {
        let page_size = self.layer.page_size;
        if position % page_size + LANES <= page_size
            && let Some(vector) = self.vector(position)
        {
            return &stored[vector * size..][..LANES * size];
        }
        let room = &mut room[..LANES * size];
        room.fill(0);
        for (i, out) in room.chunks_exact_mut(size).enumerate().take(n) {
            if let Some(vector) = self.vector(position + i) {
                out.copy_from_slice(&stored[vector * size..][..size]);
            }
        }
        room
    }

    /// The numbers of the vectors at `positions`, page by page.
    #[inline(always)]
    pub fn runs(self, positions: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let mut at = positions.start;
        std::iter::from_fn(move || {
            if at == positions.end {
                return None;
            }
            let n = (self.layer.page_size - at % self.layer.page_size).min(positions.end - at);
            let first = self.vector(at).expect("inputs were checked: pages that rows see are there");
            at += n;
            Some(first..first + n)
        })
    }

    /// Asks for the `n` vectors from `position` on, if they are in one page: pages
    /// are short and lie anywhere, so that processors do not foresee them.
    #[inline(always)]
    pub fn prefetch(&self, position: usize, n: usize, stored: &[u8], size: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(vector) = self.vector(position) {
            let start = stored.as_ptr().wrapping_add(vector * size);
            for line in (0..n * size).step_by(64) {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                // SAFETY: prefetching has no effect that could be seen, whatever the address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line).cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (position, n, stored, size);
    }
}

/// Turns scores into shares relative to a running maximum, which with the total
/// is updated; gives what earlier sums shrink by. Scores outside `seen` get no share.
#[inline(always)]
pub(super) fn share<S: Simd>(
    scores: &mut [f32],
    seen: Range<usize>,
    cap: Option<f32>,
    [max, total]: &mut [f32; 2],
) -> f32 {
    if cap.is_some() {
        for score in scores.iter_mut() {
            *score = softcap(*score, cap);
        }
    }
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let mut largest = S::splat(*max);
    for scores in scores.as_chunks::<LANES>().0 {
        largest = S::max(S::load(scores), largest);
    }
    let new_max = S::largest(largest);
    // Most blocks do not change the maximum.
    let shrink = if new_max == *max { 1.0 } else { exp(*max - new_max) };
    for scores in scores.as_chunks_mut::<LANES>().0 {
        S::store(exp_lanes::<S>(S::add(S::load(scores), S::splat(-new_max))), scores);
    }
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let mut sum = S::splat(0.0);
    for scores in scores.as_chunks::<LANES>().0 {
        sum = S::add(sum, S::load(scores));
    }
    *total = *total * shrink + S::sum(sum);
    *max = new_max;
    shrink
}
