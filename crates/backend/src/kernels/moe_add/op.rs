//! `residual += scale * Σ_e p_e · down_e · (act(gate_e · h) ⊙ (up_e · h))`, `h = norm(x)`,
//! over the `n_used` experts with the largest router probabilities (Fedus et al. 2021; Mixtral).

use super::super::{rms_norm::Norm, swiglu_linear_add::Activation};
use gguf::Format;

use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, formats, matrix, norm_weight, odd_cols};
use crate::reference::Context;
use crate::{BufferId, Result, WeightId};

/// Routing and the chosen experts' feed-forward layers.
#[derive(Debug, Clone)]
pub struct MoeAdd {
    /// `[rows, n_embd]`
    pub x: BufferId,
    /// Before router and experts.
    pub norm: Norm,
    /// `[n_experts, n_embd]`
    pub router: WeightId,
    /// `[n_experts * n_ff, n_embd]`
    pub gate: WeightId,
    /// `[n_experts * n_ff, n_embd]`
    pub up: WeightId,
    /// `[n_experts * n_embd, n_ff]`
    pub down: WeightId,
    /// Experts in all.
    pub n_experts: usize,
    /// Experts a token uses; ties go to the lower index.
    pub n_used: usize,
    /// Whether the chosen probabilities (softmax over all experts) are scaled to add up to 1.
    pub renormalise: bool,
    /// Applied to the gate.
    pub activation: Activation,
    /// Multiplies what is added.
    pub scale: f32,
    /// `[rows, n_embd]`, updated; may be the same buffer as `x`.
    pub residual: BufferId,
}

impl MoeAdd {
    /// Elements of an expert's hidden layer, if the weights agree on it.
    pub(crate) fn n_ff(&self, gate_rows: usize) -> Option<usize> {
        let n_ff = gate_rows.checked_div(self.n_experts)?;
        (n_ff > 0 && n_ff * self.n_experts == gate_rows).then_some(n_ff)
    }

    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        let (x, n_experts) = (shapes.buffer(self.x)?, self.n_experts);
        shapes.require(self.scale.is_finite(), || format!("scale is {}", self.scale))?;
        shapes.require((1..=n_experts).contains(&self.n_used), || {
            format!("{} of {n_experts} experts are used", self.n_used)
        })?;
        shapes.expect_norm(&self.norm, x.cols)?;
        shapes.expect_matrix(self.router, n_experts, x.cols)?;
        let gate_rows = shapes.weight(self.gate)?.rows();
        let n_ff = self.n_ff(gate_rows);
        let n_ff = n_ff.ok_or_else(|| {
            shapes.error(format!("{gate_rows} gate rows do not divide by {n_experts} experts"))
        })?;
        shapes.expect_matrix(self.gate, n_experts * n_ff, x.cols)?;
        shapes.expect_matrix(self.up, n_experts * n_ff, x.cols)?;
        let down_rows = shapes.weight(self.down)?.rows();
        shapes.require(n_experts.checked_mul(x.cols) == Some(down_rows), || {
            format!("{down_rows} down rows are not {n_experts} × {}", x.cols)
        })?;
        shapes.expect_matrix(self.down, down_rows, n_ff)?;
        shapes.expect_buffer(self.residual, x.rows, x.cols)
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        if self.x != self.residual {
            visit(self.x, Access::Read);
        }
        visit(self.residual, Access::Update);
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let hidden = self.norm.reference_rows(context, &context.rows(self.x))?;
        let router = context.linear(self.router, None, &hidden)?;
        let (n_embd, gate_rows) = (hidden[0].len(), context.weight(self.gate).rows());
        let n_ff = self.n_ff(gate_rows).expect("the step was checked");
        let mut delta = Vec::new();
        for (hidden, logits) in hidden.into_iter().zip(router) {
            let (hidden, mut sum) = (vec![hidden], vec![0.0; n_embd]);
            for (expert, probability) in self.route(&logits) {
                let gate = context.linear_rows(self.gate, expert * n_ff, n_ff, &hidden)?;
                let up = context.linear_rows(self.up, expert * n_ff, n_ff, &hidden)?;
                let gated = vec![self.activation.reference_gated(&gate[0], &up[0])];
                let down = context.linear_rows(self.down, expert * n_embd, n_embd, &gated)?;
                sum.iter_mut().zip(&down[0]).for_each(|(sum, down)| *sum += probability * down);
            }
            delta.push(sum);
        }
        context.add(self.residual, self.scale, &delta);
        Ok(())
    }

    /// The chosen experts, best first, with their share.
    fn route(&self, logits: &[f64]) -> Vec<(usize, f64)> {
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
        let total: f64 = exps.iter().sum();
        let mut chosen: Vec<_> = exps.iter().map(|exp| exp / total).enumerate().collect();
        // A stable sort: ties stay in the order of experts.
        chosen.sort_by(|a, b| b.1.total_cmp(&a.1));
        chosen.truncate(self.n_used);
        if self.renormalise {
            let total: f64 = chosen.iter().map(|(_, p)| p).sum();
            chosen.iter_mut().for_each(|(_, p)| *p /= total);
        }
        chosen
    }
}

impl MoeAdd {
    /// Every format, renormalised or not, residual apart from the input or the same.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        let mut cases = Vec::new();
        for format in formats() {
            cases.push(Self::case(random, format, 1, true));
            cases.push(Self::case(random, format, 7, false));
        }
        cases
    }

    fn case(random: &mut Random, format: Format, n_tokens: u32, renormalise: bool) -> Case {
        let (cols, n_experts, n_used) = (odd_cols(format), 5, 2);
        let n_ff = cols;
        let name = format!("moe_add {format} {n_tokens}x{cols} renormalise {renormalise}");
        // Gate and up are linear maps, and then the gated map of their results.
        let bound = bounds::linear(format, cols).times(2.0).plus(bounds::gated_linear(format, cols));
        let mut case = CaseBuilder::new(random, name, bound);
        let norm = Norm { weight: case.weight(|random| norm_weight(random, cols)), eps: 1e-5 };
        let mut weight =
            |name, format, rows, cols| case.weight(|random| matrix(random, name, format, rows, cols));
        // The router is F32, as in files: a rounded choice would be another function.
        let router = weight("router", Format::F32, n_experts, cols);
        let gate = weight("gate", format, n_experts * n_ff, cols);
        let up = weight("up", format, n_experts * n_ff, cols);
        let down = weight("down", format, n_experts * cols, n_ff);
        let x = case.input("x", cols, 0.1);
        let residual = if renormalise { x } else { case.input("residual", cols, 0.1) };
        let activation = Activation::Silu;
        let scale = 1.3;
        case.push(Self {
            x,
            norm,
            router,
            gate,
            up,
            down,
            n_experts,
            n_used,
            renormalise,
            activation,
            scale,
            residual,
        });
        case.build_rows(n_tokens, vec![residual])
    }
}
