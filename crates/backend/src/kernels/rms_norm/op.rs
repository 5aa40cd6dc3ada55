//! `out = x / sqrt(mean(x²) + eps) * weight`, row by row (Zhang & Sennrich 2019).

use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, norm_weight};
use crate::reference::Context;
use crate::{BufferId, Result, WeightId};

/// The parameters of a normalisation, wherever one is fused.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// `[cols]`, F32 (one row).
    pub weight: WeightId,
    /// Added to the mean square.
    pub eps: f32,
}

/// RMSNorm on its own, for hidden states that leave the model.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    /// `[rows, cols]`
    pub x: BufferId,
    /// Weight and epsilon.
    pub norm: Norm,
    /// `[rows, cols]`
    pub out: BufferId,
}

impl Norm {
    /// The normalised `x`.
    pub(crate) fn reference(&self, context: &Context<'_>, x: &[f64]) -> Result<Vec<f64>> {
        let weight = context.weight_row(self.weight, 0)?;
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean_square + f64::from(self.eps)).sqrt();
        Ok(x.iter().zip(weight).map(|(x, w)| x * scale * w).collect())
    }

    /// Each row normalised.
    pub(crate) fn reference_rows(&self, context: &Context<'_>, rows: &[Vec<f64>]) -> Result<Vec<Vec<f64>>> {
        rows.iter().map(|row| self.reference(context, row)).collect()
    }
}

impl RmsNorm {
    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        let x = shapes.buffer(self.x)?;
        shapes.expect_norm(&self.norm, x.cols)?;
        shapes.expect_buffer(self.out, x.rows, x.cols)
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        visit(self.x, Access::Read);
        visit(self.out, Access::Write);
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let out = self.norm.reference_rows(context, &context.rows(self.x))?;
        context.set(self.out, &out);
        Ok(())
    }
}

impl RmsNorm {
    /// Lengths around the widths of vectors.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        let shapes = [(1, 1), (3, 7), (2, 80), (17, 576), (1, 4099)];
        let case = |(n_tokens, cols)| {
            let name = format!("rms_norm {n_tokens}x{cols}");
            let mut case = CaseBuilder::new(random, name, bounds::float_sum(cols));
            let norm = Norm { weight: case.weight(|random| norm_weight(random, cols)), eps: 1e-5 };
            let (x, out) = (case.input("x", cols, 3.0), case.buffer("out", cols));
            case.push(Self { x, norm, out });
            case.build_rows(n_tokens, vec![out])
        };
        shapes.into_iter().map(case).collect()
    }
}
