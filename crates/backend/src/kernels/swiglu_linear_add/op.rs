//! `residual += scale * post_norm(W · (act(gate) ⊙ up) + b)` (Shazeer 2020).

use super::super::rms_norm::Norm;
use gguf::Format;

use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, bias, formats, matrix, norm_weight, odd_cols};
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

impl SwigluLinearAdd {
    /// Every format with either activation; rows of floats of any length.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        let mut cases = Vec::new();
        for format in formats() {
            let shape = (format, odd_cols(format));
            cases.push(Self::case(random, shape, 1, Activation::Silu));
            cases.push(Self::case(random, shape, 9, Activation::GeluTanh));
        }
        cases.push(Self::case(random, (Format::F16, 543), 3, Activation::Silu));
        cases
    }

    fn case(
        random: &mut Random,
        (format, cols): (Format, usize),
        n_tokens: u32,
        activation: Activation,
    ) -> Case {
        let rows = 65;
        let name = format!("swiglu_linear_add {format} {n_tokens}x{cols} {activation:?}");
        let mut case = CaseBuilder::new(random, name, bounds::gated_linear(format, cols));
        let full = n_tokens > 1;
        let weight = case.weight(|random| matrix(random, "w", format, rows, cols));
        let bias = full.then(|| case.weight(|random| bias(random, rows)));
        let post_norm =
            full.then(|| Norm { weight: case.weight(|random| norm_weight(random, rows)), eps: 1e-6 });
        let (gate, up) = (case.input("gate", cols, 4.0), case.input("up", cols, 1.0));
        let residual = case.input("residual", rows, 0.1);
        case.push(Self { gate, up, activation, weight, bias, post_norm, scale: 0.7, residual });
        case.build_rows(n_tokens, vec![residual])
    }
}
