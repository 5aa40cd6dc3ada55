//! `out[i] = cap(scale * W · norm(x[outputs[i]]))`.

use super::super::rms_norm::Norm;
use crate::check::{Access, Shapes};
use crate::reference::Context;
use crate::{BufferId, Result, Rows, WeightId};

/// Final norm and vocabulary projection, only for [`crate::StepInputs::outputs`].
#[derive(Debug, Clone)]
pub struct Head {
    /// `[tokens, n_embd]`
    pub x: BufferId,
    /// The final norm.
    pub norm: Norm,
    /// `[n_vocab, n_embd]`
    pub weight: WeightId,
    /// Multiplies the logits (Granite: 1 / its divisor); 1 for most.
    pub scale: f32,
    /// `cap * tanh(logit / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// `[outputs, n_vocab]`
    pub out: BufferId,
}

impl Head {
    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        let x = shapes.buffer(self.x)?;
        shapes.require(self.scale.is_finite(), || format!("scale is {}", self.scale))?;
        shapes.expect_softcap(self.softcap)?;
        shapes.expect_buffer(self.x, Rows::Tokens, x.cols)?;
        shapes.expect_norm(&self.norm, x.cols)?;
        let n_vocab = shapes.weight(self.weight)?.rows();
        shapes.expect_matrix(self.weight, n_vocab, x.cols)?;
        shapes.expect_buffer(self.out, Rows::Outputs, n_vocab)
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        visit(self.x, Access::Read);
        visit(self.out, Access::Write);
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let rows = context.rows(self.x);
        let wanted: Vec<_> = context.inputs.outputs.iter().map(|&row| rows[row as usize].clone()).collect();
        let mut logits = context.linear(self.weight, None, &self.norm.reference_rows(context, &wanted)?)?;
        for logit in logits.iter_mut().flatten() {
            *logit = softcap(*logit * f64::from(self.scale), self.softcap);
        }
        context.set(self.out, &logits);
        Ok(())
    }
}

/// `cap * tanh(x / cap)`, or `x` without a cap.
pub(crate) fn softcap(x: f64, cap: Option<f32>) -> f64 {
    cap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}
