//! `linear_add` on the CPU, and the end of every op that adds a linear map to
//! the residual stream.

use super::super::rms_norm::Norm;
use super::LinearAdd;
use crate::cpu::activations::{Activations, Source};
use crate::cpu::linear::{Linear, Store};
use crate::cpu::panel::Room;
use crate::cpu::run::{Matrix, Run, Sizes};
use crate::cpu::shared::Bump;
use crate::{BufferId, WeightId};

/// A linear map with what follows it: bias, norm, scale, residual stream.
pub(crate) struct ResidualLinear {
    pub x: BufferId,
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub post_norm: Option<Norm>,
    pub scale: f32,
    pub residual: BufferId,
}

/// What a [`ResidualLinear`] needs while it runs.
pub(crate) struct Scratch<'s> {
    x: Activations<'s>,
    room: Room<'s>,
    /// The map's result, if it is normalised before it is added.
    delta: Option<Matrix<'s>>,
}

impl ResidualLinear {
    pub(crate) fn scratch<'s>(&self, sizes: &Sizes<'_>, bump: &mut Bump<'s>) -> Scratch<'s> {
        let ((rows, cols), (_, out_cols)) = (sizes.shape(self.x), sizes.shape(self.residual));
        let weights = std::iter::once(sizes.weight(self.weight));
        Scratch {
            x: Activations::take(bump, sizes, rows, cols, weights.clone()),
            room: Room::take(bump, sizes, weights),
            delta: self.post_norm.map(|_| Matrix::take(bump, rows, out_cols)),
        }
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>, source: Source<'_>) {
        let Scratch { x, room, delta } = self.scratch(&run.sizes, bump);
        let residual = run.matrix(self.residual);
        let map = run.map(self.weight, 0, self.bias, delta.unwrap_or(residual));
        let store = if delta.is_some() { Store::Set } else { Store::AddScaled(self.scale) };
        for set in run.row_sets(std::iter::once(map.weight)) {
            let (segment, role, out_rows) = ((0, set.rows.len()), set.role, set.rows);
            x.prepare(run, 0..set.rows.len(), source, set);
            Linear { x, segment, role, out_rows, store, room }.run(run, &[map]);
        }
        let (Some(norm), Some(delta)) = (self.post_norm, delta) else { return };
        let (weight, isa) = (run.vector(norm.weight), run.isa);
        residual.for_each_row(run, |row, residual| {
            // SAFETY: each row of `delta` is used only by who has the residual's row.
            let delta = unsafe { delta.part(row, 0, residual.len()) };
            Norm::cpu(weight, norm.eps, isa, delta);
            residual.iter_mut().zip(delta).for_each(|(x, delta)| *x += self.scale * *delta);
        });
    }
}

impl LinearAdd {
    fn residual_linear(&self) -> ResidualLinear {
        let Self { x, weight, bias, post_norm, scale, residual } = *self;
        ResidualLinear { x, weight, bias, post_norm, scale, residual }
    }

    pub(crate) fn cpu_scratch(&self, sizes: &Sizes<'_>, bump: &mut Bump<'_>) {
        self.residual_linear().scratch(sizes, bump);
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let source = Source::Plain(run.matrix(self.x));
        self.residual_linear().cpu(run, bump, source);
    }
}
