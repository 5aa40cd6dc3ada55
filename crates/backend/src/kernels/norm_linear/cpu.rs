//! `norm_linear` on the CPU: activations once, then each map.

use super::NormLinear;
use crate::cpu::activations::{Activations, Source};
use crate::cpu::linear::{Linear, Pairs, Store, Unpacked};
use crate::cpu::run::{Run, Sizes};
use crate::cpu::shared::Bump;

impl NormLinear {
    pub(crate) fn cpu_scratch<'s>(
        &self,
        sizes: &Sizes<'_>,
        bump: &mut Bump<'s>,
    ) -> (Activations<'s>, Unpacked<'s>) {
        let (rows, cols) = sizes.shape(self.x);
        let weights = self.projections.iter().map(|projection| sizes.weight(projection.weight));
        let x = Activations::take(bump, rows, cols, weights.clone());
        (x, Unpacked::take(bump, sizes.threads, weights))
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let (x, unpacked) = self.cpu_scratch(&run.sizes, bump);
        let source = run.matrix(self.x);
        let n = source.rows();
        let source = self.norm.map_or(Source::Plain(source), |norm| norm.source(run, source));
        x.prepare(run, n, source, |i| i);
        for projection in &self.projections {
            let map = Linear {
                weight: run.weight(projection.weight),
                first_row: 0,
                bias: projection.bias.map(|bias| run.vector(bias)),
                x,
                pairs: Pairs::All(n),
                out: run.matrix(projection.out),
                store: Store::Set,
                unpacked,
            };
            map.run(run);
        }
    }
}
