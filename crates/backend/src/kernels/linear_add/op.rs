//! `residual += scale * post_norm(W · x + b)`.

use super::super::rms_norm::Norm;
use gguf::Format;

use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, bias, formats, matrix, norm_weight, odd_cols};
use crate::reference::Context;
use crate::{BufferId, Result, WeightId};

/// Attention's output projection, with what follows it.
#[derive(Debug, Clone)]
pub struct LinearAdd {
    /// `[rows, in_cols]`
    pub x: BufferId,
    /// `[out_cols, in_cols]`
    pub weight: WeightId,
    /// `[out_cols]`
    pub bias: Option<WeightId>,
    /// Applied to the map's result before it is added (Gemma).
    pub post_norm: Option<Norm>,
    /// Multiplies what is added (Granite); 1 for most.
    pub scale: f32,
    /// `[rows, out_cols]`, updated.
    pub residual: BufferId,
}

impl LinearAdd {
    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        shapes.require(self.scale.is_finite(), || format!("scale is {}", self.scale))?;
        if let Some(norm) = &self.post_norm {
            shapes.expect_norm(norm, shapes.buffer(self.residual)?.cols)?;
        }
        shapes.expect_linear(self.weight, self.bias, self.x, self.residual)
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        visit(self.x, Access::Read);
        visit(self.residual, Access::Update);
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let mut delta = context.linear(self.weight, self.bias, &context.rows(self.x))?;
        if let Some(norm) = &self.post_norm {
            delta = norm.reference_rows(context, &delta)?;
        }
        context.add(self.residual, self.scale, &delta);
        Ok(())
    }
}

impl LinearAdd {
    /// Every format, with and without bias, scale and post-norm.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        let mut cases = Vec::new();
        for format in formats() {
            for (n_tokens, full) in [(1, false), (3, true), (16, false)] {
                cases.push(Self::case(random, format, n_tokens, full));
            }
        }
        cases
    }

    fn case(random: &mut Random, format: Format, n_tokens: u32, full: bool) -> Case {
        let (cols, rows) = (odd_cols(format), 66);
        let name = format!("linear_add {format} {n_tokens}x{cols} bias, post-norm and scale {full}");
        let mut case = CaseBuilder::new(random, name, bounds::linear(format, cols));
        let weight = case.weight(|random| matrix(random, "w", format, rows, cols));
        let bias = full.then(|| case.weight(|random| bias(random, rows)));
        let post_norm =
            full.then(|| Norm { weight: case.weight(|random| norm_weight(random, rows)), eps: 1e-6 });
        let scale = if full { 0.3 } else { 1.0 };
        let (x, residual) = (case.input("x", cols, 1.0), case.input("residual", rows, 0.1));
        case.push(Self { x, weight, bias, post_norm, scale, residual });
        case.build_rows(n_tokens, vec![residual])
    }
}
