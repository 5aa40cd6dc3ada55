//! `residual += scale * post_norm(W · x + b)`.

use super::super::rms_norm::Norm;
use crate::check::{Access, Shapes};
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
