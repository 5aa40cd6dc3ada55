//! `moe_add` on the CPU: rows grouped by expert, so that each expert's weights
//! are read once a step.

use super::MoeAdd;
use crate::cpu::activations::{Activations, Source};
use crate::cpu::linear::{Linear, Pairs, Store, Unpacked};
use crate::cpu::math::exp;
use crate::cpu::run::{Matrix, Run, Sizes};
use crate::cpu::shared::{Bump, Shared};

/// Room for one step; a *slot* is one of a row's chosen experts, `row * n_used + rank`.
pub(crate) struct Scratch<'s> {
    /// The normalised input.
    x: Activations<'s>,
    /// The experts' hidden layers, `[slots, n_ff]`.
    hidden: Activations<'s>,
    unpacked: Unpacked<'s>,
    /// Router logits, `[rows, n_experts]`.
    logits: Matrix<'s>,
    gate: Matrix<'s>,
    up: Matrix<'s>,
    /// `[slots, n_embd]`
    down: Matrix<'s>,
    /// Share of each slot.
    shares: Shared<'s, f32>,
    /// Expert of each slot.
    experts: Shared<'s, u32>,
    /// Row and slot of each slot, grouped by expert.
    from_rows: Shared<'s, [u32; 2]>,
    /// Slot and slot, in the same order.
    from_slots: Shared<'s, [u32; 2]>,
}

impl MoeAdd {
    pub(crate) fn cpu_scratch<'s>(&self, sizes: &Sizes<'_>, bump: &mut Bump<'s>) -> Scratch<'s> {
        let (rows, n_embd) = sizes.shape(self.x);
        let [router, gate, up, down] =
            [self.router, self.gate, self.up, self.down].map(|id| sizes.weight(id));
        let (slots, n_ff) = (rows.saturating_mul(self.n_used), down.cols());
        Scratch {
            x: Activations::take(bump, rows, n_embd, [router, gate, up].into_iter()),
            hidden: Activations::take(bump, slots, n_ff, std::iter::once(down)),
            unpacked: Unpacked::take(bump, sizes.threads, [router, gate, up, down].into_iter()),
            logits: Matrix::take(bump, rows, self.n_experts),
            gate: Matrix::take(bump, slots, n_ff),
            up: Matrix::take(bump, slots, n_ff),
            down: Matrix::take(bump, slots, n_embd),
            shares: bump.take(slots),
            experts: bump.take(slots),
            from_rows: bump.take(slots),
            from_slots: bump.take(slots),
        }
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let scratch = self.cpu_scratch(&run.sizes, bump);
        let input = run.matrix(self.x);
        let (n, slots) = (input.rows(), input.rows() * self.n_used);
        let source = self.norm.source(run, input);
        scratch.x.prepare(run, n, source, |i| i);
        let all = Linear {
            weight: run.weight(self.router),
            first_row: 0,
            bias: None,
            x: scratch.x,
            pairs: Pairs::All(n),
            out: scratch.logits,
            store: Store::Set,
            unpacked: scratch.unpacked,
        };
        all.run(run);
        self.assign(&scratch, n);
        // SAFETY: routing is over, so these are only read from here on.
        let (experts, from_rows, from_slots) = unsafe {
            (
                scratch.experts.read(0, slots),
                scratch.from_rows.read(0, slots),
                scratch.from_slots.read(0, slots),
            )
        };
        let expert_of = |pair: &[u32; 2]| experts[pair[1] as usize] as usize;
        let (gate, up, down) = (run.weight(self.gate), run.weight(self.up), run.weight(self.down));
        for pairs in from_rows.chunk_by(|a, b| expert_of(a) == expert_of(b)) {
            let first_row = expert_of(&pairs[0]) * scratch.gate.cols;
            for (weight, out) in [(gate, scratch.gate), (up, scratch.up)] {
                Linear { weight, first_row, pairs: Pairs::Listed(pairs), out, ..all }.run(run);
            }
        }
        let source = Source::Gated(scratch.gate, scratch.up, self.activation);
        scratch.hidden.prepare(run, slots, source, |i| i);
        for pairs in from_slots.chunk_by(|a, b| expert_of(a) == expert_of(b)) {
            let (first_row, x) = (expert_of(&pairs[0]) * scratch.down.cols, scratch.hidden);
            let pairs = Pairs::Listed(pairs);
            Linear { weight: down, first_row, x, pairs, out: scratch.down, ..all }.run(run);
        }
        self.combine(run, &scratch);
    }

    /// Chooses each row's experts and groups the slots by expert.
    fn assign(&self, scratch: &Scratch<'_>, n: usize) {
        let (n_used, slots) = (self.n_used, n * self.n_used);
        // SAFETY: no loop runs, so this thread has all of the scratch.
        let (shares, experts, from_rows, from_slots) = unsafe {
            (
                scratch.shares.write(0, slots),
                scratch.experts.write(0, slots),
                scratch.from_rows.write(0, slots),
                scratch.from_slots.write(0, slots),
            )
        };
        let chosen = shares.chunks_exact_mut(n_used).zip(experts.chunks_exact_mut(n_used));
        for (row, (shares, experts)) in chosen.enumerate() {
            // SAFETY: as above.
            let logits = unsafe { scratch.logits.part(row, 0, self.n_experts) };
            self.choose(logits, shares, experts);
        }
        for (slot, pair) in from_slots.iter_mut().enumerate() {
            *pair = [slot as u32; 2];
        }
        // By expert and then by slot: no two keys are equal, so order is fixed.
        from_slots.sort_unstable_by_key(|&[slot, _]| (experts[slot as usize], slot));
        for (from_row, &[slot, _]) in from_rows.iter_mut().zip(&*from_slots) {
            *from_row = [slot / n_used as u32, slot];
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
    fn combine(&self, run: &mut Run<'_>, scratch: &Scratch<'_>) {
        let (down, shares) = (scratch.down, scratch.shares);
        run.matrix(self.residual).for_each_row(run, |row, residual| {
            let first = row * self.n_used;
            // SAFETY: slots are only read from here on.
            let shares = unsafe { shares.read(first, self.n_used) };
            for (rank, share) in shares.iter().enumerate() {
                // SAFETY: as above.
                let down = unsafe { down.row(first + rank) };
                residual.iter_mut().zip(down).for_each(|(x, d)| *x += self.scale * (share * d));
            }
        });
    }
}
