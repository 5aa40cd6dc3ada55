//! `residual += scale * post_norm(W · (act(gate) ⊙ up) + b)` (Shazeer 2020).

use super::super::rms_norm::Norm;
use crate::check::{Access, Shapes};
use crate::reference::Context;
use crate::{BufferId, Result, WeightId};

/// The gate's nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// The tanh approximation of GELU, as Gemma uses it.
    GeluTanh,
}

/// The second half of a gated feed-forward layer.
#[derive(Debug, Clone)]
pub struct SwigluLinearAdd {
    /// `[rows, n_ff]`
    pub gate: BufferId,
    /// `[rows, n_ff]`
    pub up: BufferId,
    /// Applied to the gate.
    pub activation: Activation,
    /// `[n_embd, n_ff]`
    pub weight: WeightId,
    /// `[n_embd]`
    pub bias: Option<WeightId>,
    /// Applied to the map's result before it is added (Gemma).
    pub post_norm: Option<Norm>,
    /// Multiplies what is added (Granite); 1 for most.
    pub scale: f32,
    /// `[rows, n_embd]`, updated.
    pub residual: BufferId,
}

impl Activation {
    /// The activation's value.
    pub(crate) fn reference(self, x: f64) -> f64 {
        match self {
            Self::Silu => x / (1.0 + (-x).exp()),
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
        }
    }

    /// `act(gate) ⊙ up`
    pub(crate) fn reference_gated(self, gate: &[f64], up: &[f64]) -> Vec<f64> {
        gate.iter().zip(up).map(|(&gate, up)| self.reference(gate) * up).collect()
    }
}

impl SwigluLinearAdd {
    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        shapes.require(self.scale.is_finite(), || format!("scale is {}", self.scale))?;
        if let Some(norm) = &self.post_norm {
            shapes.expect_norm(norm, shapes.buffer(self.residual)?.cols)?;
        }
        let gate = shapes.buffer(self.gate)?;
        shapes.expect_buffer(self.up, gate.rows, gate.cols)?;
        shapes.expect_linear(self.weight, self.bias, self.gate, self.residual)
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        visit(self.gate, Access::Read);
        visit(self.up, Access::Read);
        visit(self.residual, Access::Update);
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let (gate, up) = (context.rows(self.gate), context.rows(self.up));
        let rows = gate.iter().zip(&up).map(|(gate, up)| self.activation.reference_gated(gate, up)).collect();
        let mut delta = context.linear(self.weight, self.bias, &rows)?;
        if let Some(norm) = &self.post_norm {
            delta = norm.reference_rows(context, &delta)?;
        }
        context.add(self.residual, self.scale, &delta);
        Ok(())
    }
}
