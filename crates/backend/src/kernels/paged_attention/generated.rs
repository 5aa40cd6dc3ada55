//! Generated rows: each row and key/value head by itself, split over the context.
//!
//! Splits start at fixed absolute positions. What a row makes of one (maxima,
//! totals, weighted values) depends on that row alone, and a row's splits are
//! folded in order. So it matters to no bit whether splits are computed side by
//! side or one after the other, and a row with one split folds nothing.

use std::ops::Range;

use super::PagedAttention;
use super::cpu::Place;
use super::split::{Attend, Finish, Fold, Partial, SPLIT};
use crate::cpu::run::{Matrix, Sizes};
use crate::cpu::shared::{Bump, Shared};
use crate::cpu::simd::{LANES, dispatch};
use crate::cpu::{Isa, Pool};
use crate::host::HostLayer;
use crate::{CacheLayerConfig, GroupInputs, Role, SequenceInputs};

/// Tasks a thread from which on rows are not split.
const ENOUGH: usize = 4;

/// Splits a thread that there is always room for.
const ROOM: usize = 64;

/// Room for queries and for what comes of splits.
#[derive(Clone, Copy)]
pub(super) struct Scratch<'s> {
    /// Each thread's queries, multiplied by the scale, zero-padded: `[heads, k_panels]`.
    queries: Shared<'s, [f32; LANES]>,
    /// Of each split `[heads, v_panels]`.
    sums: Shared<'s, [f32; LANES]>,
    /// Of each split and head the maximum and the total.
    totals: Shared<'s, f32>,
}

impl<'s> Scratch<'s> {
    /// Room for the splits of one row as long as the cache, and for some a thread.
    pub fn take(bump: &mut Bump<'s>, sizes: &Sizes<'_>, layer: &CacheLayerConfig, n_heads: usize) -> Self {
        let group = &sizes.cache.groups[layer.group];
        let longest = (group.n_pages as usize).saturating_mul(group.page_size as usize);
        let seen = group.window.map_or(longest, |window| longest.min(window as usize));
        // A window may begin and end inside a split.
        let of_row = (seen.div_ceil(SPLIT) + 1).saturating_mul(layer.n_kv_heads);
        let n = of_row.saturating_add(sizes.threads.saturating_mul(ROOM));
        let heads = n_heads / layer.n_kv_heads;
        let panels = |n: usize, dim: usize| n.saturating_mul(heads * dim.div_ceil(LANES));
        Self {
            queries: bump.take(panels(sizes.threads, layer.k_dim)),
            sums: bump.take(panels(n, layer.v_dim)),
            totals: bump.take(n.saturating_mul(2 * heads)),
        }
    }
}

/// A generated row.
#[derive(Clone, Copy)]
struct Row {
    /// Its number in the step.
    row: usize,
    sequence: usize,
    position: usize,
}

/// The generated rows of a step.
fn rows(sequences: &[SequenceInputs]) -> impl Iterator<Item = Row> {
    let mut end = 0;
    sequences.iter().enumerate().flat_map(move |(sequence, inputs)| {
        let n_rows = inputs.n_rows as usize;
        let (row, position) = (end, inputs.n_context as usize - n_rows);
        end += n_rows;
        let n = if inputs.role == Role::Generated { n_rows } else { 0 };
        (0..n).map(move |i| Row { row: row + i, sequence, position: position + i })
    })
}

/// Attention of the generated rows of a step.
#[derive(Clone, Copy)]
pub(super) struct Generated<'a> {
    pub op: &'a PagedAttention,
    pub isa: Isa,
    pub layer: &'a HostLayer,
    pub group: &'a GroupInputs,
    pub sequences: &'a [SequenceInputs],
    pub q: Matrix<'a>,
    pub out: Matrix<'a>,
    pub scratch: Scratch<'a>,
}

impl<'a> Generated<'a> {
    /// Computes all generated rows.
    pub fn run(self, pool: &mut Pool) {
        let n_kv_heads = self.layer.config.n_kv_heads;
        let n = rows(self.sequences).count() * n_kv_heads;
        let n_splits = n_kv_heads * rows(self.sequences).map(|row| self.splits(row).len()).sum::<usize>();
        let has_room = n_splits * 2 * self.heads() <= self.scratch.totals.len();
        if n < n_splits && n < ENOUGH * pool.threads() && has_room {
            return self.side_by_side(pool, n_splits);
        }
        pool.for_each_range(n, 1, |thread, tasks| {
            for task in tasks {
                let row = rows(self.sequences).nth(task / n_kv_heads).expect("rows were counted");
                self.in_turn(row, task % n_kv_heads, thread);
            }
        });
    }

    /// A row's splits one after the other.
    fn in_turn(self, row: Row, kv_head: usize, thread: usize) {
        let (first, next) = (2 * thread, 2 * thread + 1);
        for (i, split) in self.splits(row).enumerate() {
            self.attend(row, kv_head, split, thread, if i == 0 { first } else { next });
            if i > 0 {
                self.fold(first, next);
            }
        }
        self.finish(row, kv_head, first);
    }

    /// All rows' splits, then each row's folded.
    fn side_by_side(self, pool: &mut Pool, n_splits: usize) {
        let n_kv_heads = self.layer.config.n_kv_heads;
        pool.for_each_range(n_splits, 1, |thread, tasks| {
            for task in tasks {
                let mut rest = task;
                for row in rows(self.sequences) {
                    let splits = self.splits(row);
                    let n = splits.len();
                    if rest < n * n_kv_heads {
                        self.attend(row, rest / n, splits.start + rest % n, thread, task);
                        break;
                    }
                    rest -= n * n_kv_heads;
                }
            }
        });
        // A few vectors: done before another thread would have come.
        let mut first = 0;
        for row in rows(self.sequences) {
            let n = self.splits(row).len();
            for kv_head in 0..n_kv_heads {
                (first + 1..first + n).for_each(|next| self.fold(first, next));
                self.finish(row, kv_head, first);
                first += n;
            }
        }
    }

    /// Query heads of a key/value head.
    fn heads(self) -> usize {
        self.op.n_heads / self.layer.config.n_kv_heads
    }

    /// The splits of which `row` sees something.
    fn splits(self, row: Row) -> Range<usize> {
        self.layer.oldest(row.position) / SPLIT..row.position / SPLIT + 1
    }

    /// Room `i` for what comes of a split.
    fn partial(self, i: usize) -> Partial<'a> {
        let heads = self.heads();
        let v_panels = self.layer.config.v_dim.div_ceil(LANES);
        // SAFETY: tasks, or threads, have different ones, and a task has one view of each at a time.
        let (sums, totals) = unsafe {
            let n = heads * v_panels;
            (self.scratch.sums.write(i * n, n), self.scratch.totals.write(i * 2 * heads, 2 * heads))
        };
        Partial { sums, totals: totals.as_chunks_mut().0 }
    }

    /// Computes one split of a row.
    fn attend(self, row: Row, kv_head: usize, split: usize, thread: usize, to: usize) {
        let n = self.heads() * self.layer.config.k_dim.div_ceil(LANES);
        let table = &self.group.block_tables[row.sequence * self.group.max_pages..][..self.group.max_pages];
        let attend = Attend {
            op: self.op,
            place: Place { layer: self.layer, table, kv_head },
            heads: self.heads(),
            positions: self.layer.oldest(row.position).max(split * SPLIT)
                ..(row.position + 1).min((split + 1) * SPLIT),
            // SAFETY: nobody writes q while attention runs.
            q: unsafe { self.q.row(row.row) },
            // SAFETY: each thread has its own.
            queries: unsafe { self.scratch.queries.write(thread * n, n) },
            out: self.partial(to),
        };
        attend.run(self.isa);
    }

    /// Adds what came of a later split.
    fn fold(self, into: usize, from: usize) {
        dispatch(self.isa, Fold { into: self.partial(into), from: self.partial(from) });
    }

    /// Writes a row's result.
    fn finish(self, row: Row, kv_head: usize, from: usize) {
        let n = self.heads() * self.layer.config.v_dim;
        // SAFETY: only who has this row and key/value head writes its results.
        let out = unsafe { self.out.part(row.row, kv_head * n, n) };
        dispatch(self.isa, Finish { from: self.partial(from), v_dim: self.layer.config.v_dim, out });
    }
}
