//! `rms_norm` on the CPU: rows in parallel.

use super::{Norm, RmsNorm};
use crate::cpu::activations::{Source, normalise};
use crate::cpu::run::{Matrix, Run, Sizes};
use crate::cpu::shared::Bump;
use crate::cpu::simd::{Kernel, Simd, dispatch};

impl Norm {
    /// The rows of `x` normalised, as a source of activations.
    pub(crate) fn source<'a>(&self, run: &Run<'a>, x: Matrix<'a>) -> Source<'a> {
        Source::Norm(x, run.vector(self.weight), self.eps)
    }
}

struct NormaliseRow<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for NormaliseRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        normalise::<S>(self.x, self.weight, self.eps);
    }
}

impl Norm {
    /// Normalises `x` in place.
    pub(crate) fn cpu(weight: &[f32], eps: f32, isa: crate::cpu::Isa, x: &mut [f32]) {
        dispatch(isa, NormaliseRow { x, weight, eps });
    }
}

impl RmsNorm {
    /// Needs no scratch.
    pub(crate) fn cpu_scratch(&self, _: &Sizes<'_>, _: &mut Bump<'_>) {}

    pub(crate) fn cpu(&self, run: &mut Run<'_>, _: &mut Bump<'_>) {
        let (x, out, isa) = (run.matrix(self.x), run.matrix(self.out), run.isa);
        let weight = run.vector(self.norm.weight);
        out.for_each_row(run, |row, out| {
            // SAFETY: only `out` is written.
            out.copy_from_slice(unsafe { x.row(row) });
            Norm::cpu(weight, self.norm.eps, isa, out);
        });
    }
}
