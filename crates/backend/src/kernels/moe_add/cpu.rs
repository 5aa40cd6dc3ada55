//! `moe_add` on the CPU: rows grouped by expert, so that each expert's weights
//! are read once a step.

use super::MoeAdd;
use crate::WeightId;
use crate::cpu::activations::{Activations, Source};
use crate::cpu::linear::{Linear, Store};
use crate::cpu::math::exp;
use crate::cpu::panel::Room;
use crate::cpu::run::{Matrix, RowSet, Run, Sizes};
use crate::cpu::shared::{Bump, Shared};

/// Room for one step; a *slot* is one of a row's chosen experts, `row * n_used + rank`
/// with rows counted within their set.
#[derive(Clone, Copy)]
pub(crate) struct Scratch<'s> {
    /// The router's input.
    x: Activations<'s>,
    /// The experts' inputs and hidden layers, `[slots]` grouped by expert.
    inputs: Activations<'s>,
    hidden: Activations<'s>,
    room: Room<'s>,
    /// Router logits, `[rows, n_experts]`.
    logits: Matrix<'s>,
    /// `[slots, n_ff]`, grouped by expert.
    gate: Matrix<'s>,
    up: Matrix<'s>,
    /// `[slots, n_embd]`
    down: Matrix<'s>,
    /// Share of each slot.
    shares: Shared<'s, f32>,
    /// Expert of each slot.
    experts: Shared<'s, u32>,
    /// The step's row of each slot, and the slots, grouped by expert.
    rows: Shared<'s, u32>,
    slots: Shared<'s, u32>,
}

impl MoeAdd {
    pub(crate) fn cpu_scratch<'s>(&self, sizes: &Sizes<'_>, bump: &mut Bump<'s>) -> Scratch<'s> {
        let (rows, n_embd) = sizes.shape(self.x);
        let [router, gate, up, down] = self.weights().map(|id| sizes.weight(id));
        let (slots, n_ff) = (rows.saturating_mul(self.n_used), down.cols());
        Scratch {
            x: Activations::take(bump, sizes, rows, n_embd, std::iter::once(router)),
            inputs: Activations::take(bump, sizes, slots, n_embd, [gate, up].into_iter()),
            hidden: Activations::take(bump, sizes, slots, n_ff, std::iter::once(down)),
            room: Room::take(bump, sizes, [router, gate, up, down].into_iter()),
            logits: Matrix::take(bump, rows, self.n_experts),
            gate: Matrix::take(bump, slots, n_ff),
            up: Matrix::take(bump, slots, n_ff),
            down: Matrix::take(bump, slots, n_embd),
            shares: bump.take(slots),
            experts: bump.take(slots),
            rows: bump.take(slots),
            slots: bump.take(slots),
        }
    }

    fn weights(&self) -> [WeightId; 4] {
        [self.router, self.gate, self.up, self.down]
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let scratch = self.cpu_scratch(&run.sizes, bump);
        let weights = self.weights().map(|id| run.weight(id));
        for set in run.row_sets(weights.into_iter()) {
            if !set.rows.is_empty() {
                self.rows(run, &scratch, set);
            }
        }
    }

    /// Rows that are multiplied alike.
    fn rows(&self, run: &mut Run<'_>, scratch: &Scratch<'_>, set: RowSet<'_>) {
        let (n, role, store, room) = (set.rows.len(), set.role, Store::Set, scratch.room);
        let (order, n_slots) = (run.order, n * self.n_used);
        let source = self.norm.source(run, run.matrix(self.x));
        scratch.x.prepare(run, 0..n, source, set);
        let linear = Linear { x: scratch.x, segment: (0, n), role, out_rows: order.numbers(n), store, room };
        linear.run(run, &[run.map(self.router, 0, None, scratch.logits)]);
        self.assign(scratch, set);
        // SAFETY: routing is over, so these are only read from here on.
        let (experts, rows, slots) = unsafe {
            (scratch.experts.read(0, n_slots), scratch.rows.read(0, n_slots), scratch.slots.read(0, n_slots))
        };
        let numbers = order.numbers(n_slots);
        let mut start = 0;
        for group in slots.chunk_by(|&a, &b| experts[a as usize] == experts[b as usize]) {
            let (expert, segment) = (experts[group[0] as usize] as usize, start..start + group.len());
            start = segment.end;
            let linear = Linear { segment: (segment.start, segment.end), ..linear };
            let rows = RowSet { rows: &rows[segment.clone()], role };
            scratch.inputs.prepare(run, segment.clone(), source, rows);
            let first_row = expert * scratch.gate.cols;
            let gate = run.map(self.gate, first_row, None, scratch.gate);
            let up = run.map(self.up, first_row, None, scratch.up);
            let out_rows = &numbers[segment.clone()];
            Linear { x: scratch.inputs, out_rows, ..linear }.run(run, &[gate, up]);
            let gated = Source::Gated(scratch.gate, scratch.up, self.activation);
            scratch.hidden.prepare(run, segment.clone(), gated, RowSet { rows: out_rows, role });
            let down = run.map(self.down, expert * scratch.down.cols, None, scratch.down);
            Linear { x: scratch.hidden, out_rows: group, ..linear }.run(run, &[down]);
        }
        self.combine(run, scratch, set);
    }

    /// Chooses each row's experts and groups the slots by expert.
    fn assign(&self, scratch: &Scratch<'_>, set: RowSet<'_>) {
        let (n_used, n_slots) = (self.n_used, set.rows.len() * self.n_used);
        // SAFETY: no loop runs, so this thread has all of the scratch.
        let (shares, experts, rows, slots) = unsafe {
            (
                scratch.shares.write(0, n_slots),
                scratch.experts.write(0, n_slots),
                scratch.rows.write(0, n_slots),
                scratch.slots.write(0, n_slots),
            )
        };
        let chosen = shares.chunks_exact_mut(n_used).zip(experts.chunks_exact_mut(n_used));
        for (row, (shares, experts)) in chosen.enumerate() {
            // SAFETY: as above.
            let logits = unsafe { scratch.logits.part(row, 0, self.n_experts) };
            self.choose(logits, shares, experts);
        }
        for (slot, number) in slots.iter_mut().zip(0..) {
            *slot = number;
        }
        // By expert and then by slot: no two keys are equal, so order is fixed.
        slots.sort_unstable_by_key(|&slot| (experts[slot as usize], slot));
        for (row, &slot) in rows.iter_mut().zip(&*slots) {
            *row = set.rows[slot as usize / n_used];
        }
    }

    /// Turns logits into probabilities and takes the largest, best first.
    fn choose(&self, logits: &mut [f32], shares: &mut [f32], experts: &mut [u32]) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        logits.iter_mut().for_each(|x| *x = exp(*x - max));
        let total: f32 = logits.iter().sum();
        for (share, expert) in shares.iter_mut().zip(experts) {
            let mut best = 0;
            for (i, x) in logits.iter().enumerate() {
                // Ties keep the lower index; what was taken is negative.
                if *x > logits[best] {
                    best = i;
                }
            }
            *share = logits[best] / total;
            *expert = best as u32;
            logits[best] = -1.0;
        }
        if self.renormalise {
            let total: f32 = shares.iter().sum();
            shares.iter_mut().for_each(|share| *share /= total);
        }
    }

    /// Adds each row's slots, best first, to the residual stream.
    fn combine(&self, run: &mut Run<'_>, scratch: &Scratch<'_>, set: RowSet<'_>) {
        let (down, shares, residual) = (scratch.down, scratch.shares, run.matrix(self.residual));
        let grain = set.rows.len().div_ceil(4 * run.pool.threads());
        run.pool.for_each_range(set.rows.len(), grain, |_, range| {
            for i in range {
                // SAFETY: ranges are disjoint and rows are distinct, so nobody else has the row.
                let residual = unsafe { residual.part(set.rows[i] as usize, 0, residual.cols) };
                // SAFETY: slots are only read from here on.
                let shares = unsafe { shares.read(i * self.n_used, self.n_used) };
                for (rank, share) in shares.iter().enumerate() {
                    // SAFETY: as above.
                    let down = unsafe { down.row(i * self.n_used + rank) };
                    residual.iter_mut().zip(down).for_each(|(x, d)| *x += self.scale * (share * d));
                }
            }
        });
    }
}
