//! `norm_linear` on the CPU: activations once, then all maps in one loop.

use super::{NormLinear, Projection};
use crate::cpu::activations::{Activations, Source};
use crate::cpu::linear::{Linear, Map, Store};
use crate::cpu::panel::Room;
use crate::cpu::run::{Run, Sizes};
use crate::cpu::shared::Bump;

/// Maps that share a loop; more take several.
const TOGETHER: usize = 3;

impl NormLinear {
    pub(crate) fn cpu_scratch<'s>(
        &self,
        sizes: &Sizes<'_>,
        bump: &mut Bump<'s>,
    ) -> (Activations<'s>, Room<'s>) {
        let (rows, cols) = sizes.shape(self.x);
        let weights = self.projections.iter().map(|projection| sizes.weight(projection.weight));
        let x = Activations::take(bump, sizes, rows, cols, weights.clone());
        (x, Room::take(bump, sizes, weights))
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let (x, room) = self.cpu_scratch(&run.sizes, bump);
        let source = run.matrix(self.x);
        let source = self.norm.map_or(Source::Plain(source), |norm| norm.source(run, source));
        let weights = self.projections.iter().map(|projection| run.weight(projection.weight));
        for set in run.row_sets(weights) {
            x.prepare(run, 0..set.rows.len(), source, set);
            let linear = Linear {
                x,
                segment: (0, set.rows.len()),
                role: set.role,
                out_rows: set.rows,
                store: Store::Set,
                room,
            };
            for projections in self.projections.chunks(TOGETHER) {
                let maps: [Map<'_>; TOGETHER] = std::array::from_fn(|i| {
                    let Projection { weight, bias, out } = projections[i.min(projections.len() - 1)];
                    run.map(weight, 0, bias, run.matrix(out))
                });
                linear.run(run, &maps[..projections.len()]);
            }
        }
    }
}
