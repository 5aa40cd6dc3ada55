//! `paged_attention` on the CPU: tasks of a few rows of one sequence and one
//! key/value head, each walking the pages once.
//!
//! Every query head takes the positions it sees in blocks that start at fixed
//! absolute positions, with a running maximum and sum, so that its result does
//! not depend on the rows it shares a task with.

use std::ops::Range;

use super::PagedAttention;
use crate::SequenceInputs;
use crate::cpu::math::{exp, softcap};
use crate::cpu::run::{Matrix, Run, Sizes};
use crate::cpu::shared::{Bump, Shared};
use crate::cpu::simd::{Kernel, LANES, Simd, dispatch};
use crate::cpu::widen::widen;
use crate::host::HostLayer;

/// Rows that share a task, and so the widening of keys and values.
const ROWS: usize = 8;

/// Most positions that are taken at once; a larger page is cut.
const BLOCK: usize = 64;

/// Each thread's room.
#[derive(Clone, Copy)]
pub(crate) struct Scratch<'s> {
    /// `[BLOCK, k_dim]` and `[BLOCK, v_dim]`, dimensions rounded up to LANES.
    keys: Shared<'s, f32>,
    values: Shared<'s, f32>,
    /// `[ROWS * heads of a key/value head, k_dim or v_dim]`
    queries: Shared<'s, f32>,
    sums: Shared<'s, f32>,
    /// `[ROWS * heads, 2]`: running maximum and total.
    totals: Shared<'s, f32>,
}

impl PagedAttention {
    pub(crate) fn cpu_scratch<'s>(&self, sizes: &Sizes<'_>, bump: &mut Bump<'s>) -> Scratch<'s> {
        let layer = &sizes.cache.layers[self.cache.0 as usize];
        let (k_dim, v_dim) = (layer.k_dim.next_multiple_of(LANES), layer.v_dim.next_multiple_of(LANES));
        let queries = sizes.threads * ROWS * (self.n_heads / layer.n_kv_heads);
        Scratch {
            keys: bump.take(sizes.threads * BLOCK * k_dim),
            values: bump.take(sizes.threads * BLOCK * v_dim),
            queries: bump.take(queries * k_dim),
            sums: bump.take(queries * v_dim),
            totals: bump.take(queries * 2),
        }
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let scratch = self.cpu_scratch(&run.sizes, bump);
        let (q, out, isa) = (run.matrix(self.q), run.matrix(self.out), run.isa);
        let layer = &run.layers[self.cache.0 as usize];
        let (group, sequences) = (&run.inputs.groups[layer.config.group], &run.inputs.sequences);
        let n_blocks: usize = sequences.iter().map(|s| (s.n_rows as usize).div_ceil(ROWS)).sum();
        let n_kv_heads = layer.config.n_kv_heads;
        let heads = self.n_heads / n_kv_heads;
        run.pool.for_each_range(n_blocks * n_kv_heads, 1, |thread, tasks| {
            for task in tasks {
                let (block, kv_head) = (task / n_kv_heads, task % n_kv_heads);
                let (sequence, first_row, first, n_rows) = find_block(sequences, block);
                let table = &group.block_tables[sequence * group.max_pages..][..group.max_pages];
                let room = Room::new(scratch, thread, heads, layer);
                let rows = Rows { first_row, first_position: first, n_rows, kv_head, heads };
                dispatch(isa, Attend { op: self, layer, table, rows, q, out, room });
            }
        });
    }
}

/// Block `block` of all sequences' rows: its sequence, its first row in the
/// step, that row's position, and its number of rows.
fn find_block(sequences: &[SequenceInputs], mut block: usize) -> (usize, usize, usize, usize) {
    let mut row = 0;
    for (i, sequence) in sequences.iter().enumerate() {
        let n_rows = sequence.n_rows as usize;
        let n_blocks = n_rows.div_ceil(ROWS);
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

/// The rows and heads of a task.
struct Rows {
    first_row: usize,
    first_position: usize,
    n_rows: usize,
    kv_head: usize,
    heads: usize,
}

/// One thread's part of the scratch.
struct Room<'a> {
    keys: &'a mut [f32],
    values: &'a mut [f32],
    queries: &'a mut [f32],
    sums: &'a mut [f32],
    totals: &'a mut [f32],
}

impl<'a> Room<'a> {
    fn new(scratch: Scratch<'a>, thread: usize, heads: usize, layer: &HostLayer) -> Self {
        let k_dim = layer.config.k_dim.next_multiple_of(LANES);
        let v_dim = layer.config.v_dim.next_multiple_of(LANES);
        // SAFETY: each thread takes its own part.
        let part = |all: Shared<'a, f32>, n: usize| unsafe { all.write(thread * n, n) };
        Self {
            keys: part(scratch.keys, BLOCK * k_dim),
            values: part(scratch.values, BLOCK * v_dim),
            queries: part(scratch.queries, ROWS * heads * k_dim),
            sums: part(scratch.sums, ROWS * heads * v_dim),
            totals: part(scratch.totals, ROWS * heads * 2),
        }
    }
}

/// One task.
struct Attend<'a> {
    op: &'a PagedAttention,
    layer: &'a HostLayer,
    table: &'a [u32],
    rows: Rows,
    q: Matrix<'a>,
    out: Matrix<'a>,
    room: Room<'a>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self) {
        self.start();
        let (first, n_rows) = (self.rows.first_position, self.rows.n_rows);
        let (oldest, end) = (self.oldest(first), first + n_rows);
        let page_size = self.layer.page_size;
        let mut position = oldest / page_size * page_size;
        while position < end {
            let offset = position % page_size;
            let n = BLOCK.min(page_size - offset);
            if position + n > oldest {
                self.block::<S>(position, n.min(end - position));
            }
            position += n;
        }
        self.finish();
    }
}

impl Attend<'_> {
    /// The first position that the row at `position` sees.
    #[inline(always)]
    fn oldest(&self, position: usize) -> usize {
        self.layer.window.map_or(0, |window| (position + 1).saturating_sub(window as usize))
    }

    /// Copies the queries, zero-padded, and resets sums and totals.
    #[inline(always)]
    fn start(&mut self) {
        let k_dim = self.layer.config.k_dim;
        let Rows { first_row, n_rows, kv_head, heads, .. } = self.rows;
        let queries = self.room.queries.chunks_exact_mut(k_dim.next_multiple_of(LANES));
        for (i, query) in queries.take(n_rows * heads).enumerate() {
            // SAFETY: nobody writes q while attention runs.
            let row = unsafe { self.q.row(first_row + i / heads) };
            let head = kv_head * heads + i % heads;
            query[..k_dim].copy_from_slice(&row[head * k_dim..][..k_dim]);
            query[k_dim..].fill(0.0);
        }
        self.room.sums.fill(0.0);
        for total in self.room.totals.as_chunks_mut::<2>().0 {
            *total = [f32::NEG_INFINITY, 0.0];
        }
    }

    /// Takes positions `position..position + n`, which are in one page.
    #[inline(always)]
    fn block<S: Simd>(&mut self, position: usize, n: usize) {
        let (config, page_size) = (&self.layer.config, self.layer.page_size);
        let slot = self.table[position / page_size] as usize * page_size + position % page_size;
        let at = self.layer.vector(slot, self.rows.kv_head);
        let (k, v) = (self.layer.k.as_slice(), self.layer.v.as_slice());
        widen::<S>(config.k_format, k, at, n, config.k_dim, self.room.keys);
        widen::<S>(config.v_format, v, at, n, config.v_dim, self.room.values);
        for i in 0..self.rows.n_rows {
            let last = self.rows.first_position + i;
            let from = self.oldest(last).max(position) - position;
            let to = (last + 1).saturating_sub(position).min(n);
            if from < to {
                for head in 0..self.rows.heads {
                    self.update::<S>(i * self.rows.heads + head, from..to);
                }
            }
        }
    }

    /// Adds the positions `seen` of the block to query `i`'s sums.
    #[inline(always)]
    fn update<S: Simd>(&mut self, i: usize, seen: Range<usize>) {
        let k_dim = self.layer.config.k_dim.next_multiple_of(LANES);
        let v_dim = self.layer.config.v_dim.next_multiple_of(LANES);
        let query = self.room.queries[i * k_dim..][..k_dim].as_chunks::<LANES>().0;
        let mut shares = [f32::NEG_INFINITY; BLOCK];
        let keys = self.room.keys.chunks_exact(k_dim);
        for (share, key) in shares.iter_mut().zip(keys).take(seen.end).skip(seen.start) {
            let mut sum = S::splat(0.0);
            for (q, k) in query.iter().zip(key.as_chunks::<LANES>().0) {
                sum = S::mul_add(S::load(q), S::load(k), sum);
            }
            *share = softcap(S::sum(sum) * self.op.scale, self.op.softcap);
        }
        let [max, total] = &mut self.room.totals.as_chunks_mut::<2>().0[i];
        let new_max = shares.iter().fold(*max, |max, &score| max.max(score));
        let shrink = exp(*max - new_max);
        let mut sum = S::splat(0.0);
        for shares in shares.as_chunks_mut::<LANES>().0 {
            for share in shares.iter_mut() {
                *share = exp(*share - new_max);
            }
            sum = S::add(sum, S::load(shares));
        }
        *total = *total * shrink + S::sum(sum);
        *max = new_max;
        let sums = self.room.sums[i * v_dim..][..v_dim].as_chunks_mut::<LANES>().0;
        for (lane, out) in sums.iter_mut().enumerate() {
            let mut sum = S::mul(S::load(out), S::splat(shrink));
            for j in seen.clone() {
                let value = &self.room.values[j * v_dim..].as_chunks::<LANES>().0[lane];
                sum = S::mul_add(S::splat(shares[j]), S::load(value), sum);
            }
            S::store(sum, out);
        }
    }

    /// Divides by the totals and writes the results.
    #[inline(always)]
    fn finish(&mut self) {
        let v_dim = self.layer.config.v_dim;
        let Rows { first_row, n_rows, kv_head, heads, .. } = self.rows;
        let sums = self.room.sums.chunks_exact(v_dim.next_multiple_of(LANES));
        let totals = self.room.totals.as_chunks::<2>().0;
        for (i, (sums, [_, total])) in sums.zip(totals).take(n_rows * heads).enumerate() {
            let head = kv_head * heads + i % heads;
            // SAFETY: only this task has these rows of this head.
            let out = unsafe { self.out.part(first_row + i / heads, head * v_dim, v_dim) };
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum / total;
            }
        }
    }
}
