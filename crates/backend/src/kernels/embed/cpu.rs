//! `embed` on the CPU: rows in parallel.

use super::Embed;
use crate::TokenInputs;
use crate::cpu::run::{Run, Sizes};
use crate::cpu::shared::Bump;

impl Embed {
    /// Needs no scratch.
    pub(crate) fn cpu_scratch(&self, _: &Sizes<'_>, _: &mut Bump<'_>) {}

    pub(crate) fn cpu(&self, run: &mut Run<'_>, _: &mut Bump<'_>) {
        let (table, out, inputs) = (run.weight(self.table), run.matrix(self.out), run.inputs);
        out.for_each_row(run, |row, out| match &inputs.tokens {
            TokenInputs::Ids(ids) => {
                table
                    .dequantize_row(ids[row] as usize, out)
                    .expect("formats that cannot be read are refused when weights are loaded");
                out.iter_mut().for_each(|x| *x *= self.scale);
            }
            TokenInputs::Embeddings { values, .. } => {
                out.copy_from_slice(&values[row * out.len()..][..out.len()]);
            }
        });
    }
}
