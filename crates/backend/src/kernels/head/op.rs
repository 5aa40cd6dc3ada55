//! `out[i] = cap(scale * W · norm(x[outputs[i]]))`.

use super::super::rms_norm::Norm;
use gguf::Format;

use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, formats, matrix, norm_weight, odd_cols};
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

impl Head {
    /// Every format; some rows wanted, with and without soft-cap.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        let mut cases = Vec::new();
        for format in formats() {
            cases.push(Self::case(random, format, 1, None));
            cases.push(Self::case(random, format, 7, Some(2.0)));
        }
        cases
    }

    fn case(random: &mut Random, format: Format, n_tokens: u32, softcap: Option<f32>) -> Case {
        let (cols, n_vocab) = (odd_cols(format), 101);
        let name = format!("head {format} {n_tokens}x{cols} soft-cap {softcap:?}");
        let mut case = CaseBuilder::new(random, name, bounds::linear(format, cols));
        let norm = Norm { weight: case.weight(|random| norm_weight(random, cols)), eps: 1e-5 };
        let weight = case.weight(|random| matrix(random, "w", format, n_vocab, cols));
        let (x, out) = (case.input("x", cols, 2.0), case.outputs("logits", n_vocab));
        case.push(Self { x, norm, weight, scale: 1.5, softcap, out });
        let mut case = case.build_rows(n_tokens, vec![out]);
        case.runs[0].outputs = (0..n_tokens).filter(|row| row % 3 == 0).collect();
        case
    }
}
