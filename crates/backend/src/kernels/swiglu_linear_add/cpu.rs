//! `swiglu_linear_add` on the CPU: gated activations, then as `linear_add`.

use super::super::linear_add::ResidualLinear;
use super::SwigluLinearAdd;
use crate::cpu::activations::Source;
use crate::cpu::run::{Run, Sizes};
use crate::cpu::shared::Bump;

impl SwigluLinearAdd {
    fn residual_linear(&self) -> ResidualLinear {
        let Self { gate, weight, bias, post_norm, scale, residual, .. } = *self;
        ResidualLinear { x: gate, weight, bias, post_norm, scale, residual }
    }

    pub(crate) fn cpu_scratch(&self, sizes: &Sizes<'_>, bump: &mut Bump<'_>) {
        self.residual_linear().scratch(sizes, bump);
    }

    pub(crate) fn cpu(&self, run: &mut Run<'_>, bump: &mut Bump<'_>) {
        let source = Source::Gated(run.matrix(self.gate), run.matrix(self.up), self.activation);
        self.residual_linear().cpu(run, bump, source);
    }
}
