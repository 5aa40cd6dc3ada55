//! `head` on the CPU: the wanted rows gathered, normalised and multiplied.

use super::Head;
use crate::Role;
use crate::cpu::activations::Activations;
use crate::cpu::linear::{Linear, Store};
use crate::cpu::math::softcap;
use crate::cpu::panel::Room;
use crate::cpu::run::{RowSet, Run, Sizes};
use crate::cpu::shared::Bump;
use crate::cpu::simd::{Kernel, Simd, dispatch};

struct ScaleAndCap<'a> {
    logits: &'a mut [f32],
    scale: f32,
    cap: Option<f32>,
}

impl Kernel for ScaleAndCap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for logit in self.logits {
            *logit = softcap(*logit * self.scale, self.cap);
        }
    }
}

impl Head {
    pub(crate) fn cpu_scratch<'s>(
        &self,
        sizes: &Sizes<'_>,
        bump: &mut Bump<'s>,
    ) -> (Activations<'s>, Room<'s>) {
        let weights = std::iter::once(sizes.weight(self.weight));
        let x = Activations::take(bump, sizes, sizes.outputs, sizes.shape(self.x).1, weights.clone());
        (x, Room::take(bump, sizes, weights))
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let (x, room) = self.cpu_scratch(&run.sizes, bump);
        let (outputs, out, isa) = (&run.inputs.outputs, run.matrix(self.out), run.isa);
        let source = self.norm.source(run, run.matrix(self.x));
        // Whether of a prompt's row or a generated one: logits are computed alike.
        let set = RowSet { rows: outputs, role: Role::Generated };
        x.prepare(run, 0..outputs.len(), source, set);
        let map = run.map(self.weight, 0, None, out);
        let out_rows = run.order.numbers(outputs.len());
        let segment = (0, outputs.len());
        Linear { x, segment, role: set.role, out_rows, store: Store::Set, room }.run(run, &[map]);
        if self.scale != 1.0 || self.softcap.is_some() {
            out.for_each_row(run, |_, logits| {
                dispatch(isa, ScaleAndCap { logits, scale: self.scale, cap: self.softcap });
            });
        }
    }
}
