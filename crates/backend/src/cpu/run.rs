//! What an op's CPU kernel works with.

use std::sync::Arc;

use super::interleave::Interleaved;
use super::linear::{Map, form};
use super::shared::{Bump, Shared};
use super::{Isa, Pool};
use crate::host::HostLayer;
use crate::{BufferDesc, BufferId, CacheConfig, Plan, Role, Rows, StepInputs, Weight, WeightId};

/// What decides how much scratch an op takes.
#[derive(Clone, Copy)]
pub struct Sizes<'a> {
    /// Rows of the step.
    pub tokens: usize,
    /// Rows whose logits are wanted.
    pub outputs: usize,
    /// Threads of the pool.
    pub threads: usize,
    /// What is dispatched to.
    pub isa: Isa,
    /// The model's weights.
    pub weights: &'a [Weight],
    /// The step's buffers.
    pub descs: &'a [BufferDesc],
    /// The cache's shapes.
    pub cache: &'a CacheConfig,
}

impl<'a> Sizes<'a> {
    /// A weight of a checked step.
    pub fn weight(&self, id: WeightId) -> &'a Weight {
        &self.weights[id.0 as usize]
    }

    /// Rows and columns of a buffer of a checked step.
    pub fn shape(&self, id: BufferId) -> (usize, usize) {
        let desc = &self.descs[id.0 as usize];
        match desc.rows {
            Rows::Tokens => (self.tokens, desc.cols),
            Rows::Outputs => (self.outputs, desc.cols),
        }
    }
}

/// A running step.
pub struct Run<'a> {
    /// The threads.
    pub pool: &'a mut Pool,
    /// What to dispatch to.
    pub isa: Isa,
    /// Checked inputs.
    pub inputs: &'a StepInputs,
    /// The rows by role.
    pub order: &'a RowOrder,
    /// Sizes of this run.
    pub sizes: Sizes<'a>,
    /// Cosines and sines of the positions.
    pub angles: &'a mut Angles,
    /// The KV cache's layers.
    pub layers: &'a mut [HostLayer],
    /// F32 vectors by weight, decoded when they were loaded.
    pub vectors: &'a [Option<Box<[f32]>>],
    /// Weights by number, where they were interleaved.
    pub interleaved: &'a [Option<Interleaved>],
    /// Where buffers lie.
    pub plan: &'a Plan,
    /// The buffers' memory.
    pub arena: Shared<'a, f32>,
}

/// Cosines and sines of a step's positions: layers that turn alike share them.
#[derive(Debug, Default)]
pub struct Angles {
    /// Kinds of turning; models have one or two.
    kinds: Vec<Turned>,
}

#[derive(Debug)]
struct Turned {
    inv_freq: Arc<[f32]>,
    magnitude: f32,
    /// For each row of the step its cosines, then its sines; empty before the
    /// first layer that asks.
    values: Vec<f32>,
}

impl Angles {
    /// Makes room for `rows` rows.
    pub fn reserve(&mut self, inv_freq: &Arc<[f32]>, magnitude: f32, rows: usize) {
        let i = self.find(inv_freq, magnitude).unwrap_or_else(|| {
            self.kinds.push(Turned { inv_freq: inv_freq.clone(), magnitude, values: Vec::new() });
            self.kinds.len() - 1
        });
        self.kinds[i].values.clear();
        self.kinds[i].values.reserve(rows.saturating_mul(2 * inv_freq.len()));
    }

    /// Forgets the last step's.
    pub fn clear(&mut self) {
        self.kinds.iter_mut().for_each(|kind| kind.values.clear());
    }

    /// Computes the angles of `positions`, unless a layer before did.
    pub fn fill(&mut self, inv_freq: &[f32], magnitude: f32, positions: &[u32]) {
        let i = self.find(inv_freq, magnitude).expect("room was made when the step was lowered");
        let Turned { values, .. } = &mut self.kinds[i];
        if !values.is_empty() {
            return;
        }
        let n = inv_freq.len();
        values.resize(positions.len() * 2 * n, 0.0);
        for (&position, row) in positions.iter().zip(values.chunks_exact_mut((2 * n).max(1))) {
            let (cosines, sines) = row.split_at_mut(n);
            for ((out_cos, out_sin), &inv_freq) in cosines.iter_mut().zip(sines).zip(inv_freq) {
                let (sin, cos) = (f64::from(position) * f64::from(inv_freq)).sin_cos();
                (*out_cos, *out_sin) = (cos as f32 * magnitude, sin as f32 * magnitude);
            }
        }
    }

    /// What [`fill`](Self::fill) computed.
    pub fn of(&self, inv_freq: &[f32], magnitude: f32) -> &[f32] {
        let i = self.find(inv_freq, magnitude).expect("room was made when the step was lowered");
        &self.kinds[i].values
    }

    fn find(&self, inv_freq: &[f32], magnitude: f32) -> Option<usize> {
        self.kinds.iter().position(|kind| *kind.inv_freq == *inv_freq && kind.magnitude == magnitude)
    }
}

/// The rows of a step, in order and by role.
#[derive(Debug, Default)]
pub struct RowOrder {
    /// 0, 1, 2, …
    iota: Vec<u32>,
    generated: Vec<u32>,
    prompt: Vec<u32>,
}

impl RowOrder {
    /// Makes room for `rows` rows, and for as many numbers in a row.
    pub fn reserve(&mut self, rows: usize, numbers: usize) {
        let numbers = u32::try_from(numbers.max(rows)).unwrap_or(u32::MAX);
        let have = u32::try_from(self.iota.len()).unwrap_or(u32::MAX);
        self.iota.extend(have..numbers);
        self.generated.reserve(rows.saturating_sub(self.generated.len()));
        self.prompt.reserve(rows.saturating_sub(self.prompt.len()));
    }

    /// Sorts the rows of a step.
    pub fn fill(&mut self, inputs: &StepInputs) {
        self.generated.clear();
        self.prompt.clear();
        let mut row = 0;
        for sequence in &inputs.sequences {
            let rows = row..row + sequence.n_rows;
            row = rows.end;
            match sequence.role {
                Role::Generated => self.generated.extend(rows),
                Role::Prompt => self.prompt.extend(rows),
            }
        }
    }

    /// 0, 1, 2, … `n - 1`.
    pub fn numbers(&self, n: usize) -> &[u32] {
        &self.iota[..n]
    }
}

/// Rows that are multiplied alike.
#[derive(Debug, Clone, Copy)]
pub struct RowSet<'a> {
    /// Rows of the step.
    pub rows: &'a [u32],
    /// What they are, where it matters.
    pub role: Role,
}

impl<'a> Run<'a> {
    /// The step's rows in sets that `weights` treat alike: all together where
    /// roles make no difference.
    pub fn row_sets<'w>(&self, mut weights: impl Iterator<Item = &'w Weight>) -> [RowSet<'a>; 2] {
        let order = self.order;
        let differs = |w: &Weight| {
            form(w.format(), self.isa, Role::Prompt) != form(w.format(), self.isa, Role::Generated)
        };
        let (generated, prompt): (&[u32], &[u32]) = if weights.any(differs) {
            (&order.generated, &order.prompt)
        } else {
            (order.numbers(self.sizes.tokens), &[])
        };
        [RowSet { rows: generated, role: Role::Generated }, RowSet { rows: prompt, role: Role::Prompt }]
    }

    /// A weight of a checked step.
    pub fn weight(&self, id: WeightId) -> &'a Weight {
        self.sizes.weight(id)
    }

    /// A linear map of a checked step, its rows from `first_row` on.
    pub fn map(
        &self,
        weight: WeightId,
        first_row: usize,
        bias: Option<WeightId>,
        out: Matrix<'a>,
    ) -> Map<'a> {
        Map {
            weight: self.weight(weight),
            interleaved: self.interleaved[weight.0 as usize].as_ref(),
            first_row,
            bias: bias.map(|bias| self.vector(bias)),
            out,
        }
    }

    /// An F32 vector of a checked step.
    pub fn vector(&self, id: WeightId) -> &'a [f32] {
        self.vectors[id.0 as usize].as_deref().expect("a checked step names F32 rows as vectors")
    }

    /// A buffer of the step.
    pub fn matrix(&self, id: BufferId) -> Matrix<'a> {
        let (rows, cols) = self.sizes.shape(id);
        let place = self.plan.place(id).expect("an op uses it, so it has a place");
        Matrix { values: self.arena.range(place.offset / 4, rows * cols), cols }
    }
}

/// A matrix in shared memory, row-major.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Its elements.
    pub values: Shared<'a, f32>,
    /// Elements a row.
    pub cols: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix in scratch memory.
    pub fn take(bump: &mut Bump<'a>, rows: usize, cols: usize) -> Self {
        Self { values: bump.take(rows.saturating_mul(cols)), cols }
    }

    /// Rows.
    pub fn rows(self) -> usize {
        self.values.len() / self.cols
    }

    /// Row `i`, to read.
    ///
    /// # Safety
    /// Nobody writes it while the slice lives.
    pub unsafe fn row(self, i: usize) -> &'a [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.values.read(i * self.cols, self.cols) }
    }

    /// Elements `first..first + n` of row `i`, to write.
    ///
    /// # Safety
    /// Nobody else uses them while the slice lives.
    pub unsafe fn part(self, i: usize, first: usize, n: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.values.write(i * self.cols + first, n) }
    }

    /// Runs `body(row, values)` for each row, on all threads.
    pub fn for_each_row(self, run: &mut Run<'_>, body: impl Fn(usize, &mut [f32]) + Sync) {
        let n = self.rows();
        let grain = n.div_ceil(4 * run.pool.threads());
        run.pool.for_each_range(n, grain, |_, range| {
            for i in range {
                // SAFETY: ranges are disjoint, so nobody else has the row.
                body(i, unsafe { self.part(i, 0, self.cols) });
            }
        });
    }
}
