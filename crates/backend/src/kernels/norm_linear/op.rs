//! `out_i = W_i · norm(x) + b_i` for each projection: QKV, or gate and up.

use super::super::rms_norm::Norm;
use crate::check::{Access, Shapes};
use crate::reference::Context;
use crate::{BufferId, Result, WeightId};

/// One linear map and where it goes.
#[derive(Debug, Clone)]
pub struct Projection {
    /// `[out_cols, in_cols]`, any format.
    pub weight: WeightId,
    /// `[out_cols]`, F32.
    pub bias: Option<WeightId>,
    /// `[rows, out_cols]`
    pub out: BufferId,
}

/// RMSNorm once, then every projection of the result.
#[derive(Debug, Clone)]
pub struct NormLinear {
    /// `[rows, in_cols]`
    pub x: BufferId,
    /// Absent: the projections read `x` itself.
    pub norm: Option<Norm>,
    /// At least one.
    pub projections: Vec<Projection>,
}

impl NormLinear {
    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        shapes.require(!self.projections.is_empty(), || "there are no projections".to_owned())?;
        if let Some(norm) = &self.norm {
            shapes.expect_norm(norm, shapes.buffer(self.x)?.cols)?;
        }
        let mut projections = self.projections.iter();
        projections.try_for_each(|p| shapes.expect_linear(p.weight, p.bias, self.x, p.out))
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        visit(self.x, Access::Read);
        self.projections.iter().for_each(|projection| visit(projection.out, Access::Write));
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let mut x = context.rows(self.x);
        if let Some(norm) = &self.norm {
            x = norm.reference_rows(context, &x)?;
        }
        for projection in &self.projections {
            let out = context.linear(projection.weight, projection.bias, &x)?;
            context.set(projection.out, &out);
        }
        Ok(())
    }
}
