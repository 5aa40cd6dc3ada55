//! `out_i = W_i · norm(x) + b_i` for each projection: QKV, or gate and up.

use super::super::rms_norm::Norm;
use gguf::Format;

use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, bias, formats, matrix, norm_weight, odd_cols};
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

impl NormLinear {
    /// Every format, with and without norm and bias, one row to seventeen; rows of floats of any length.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        let mut cases = Vec::new();
        for format in formats() {
            for (n_tokens, with_norm) in [(1, true), (2, false), (5, true), (17, false)] {
                cases.push(Self::case(random, (format, odd_cols(format)), n_tokens, with_norm));
            }
        }
        cases.push(Self::case(random, (Format::F32, 83), 1, true));
        cases.push(Self::case(random, (Format::F16, 543), 5, true));
        cases
    }

    fn case(random: &mut Random, (format, cols): (Format, usize), n_tokens: u32, with_norm: bool) -> Case {
        let name = format!("norm_linear {format} {n_tokens}x{cols} norm {with_norm}");
        let mut case = CaseBuilder::new(random, name, bounds::linear(format, cols));
        let norm =
            with_norm.then(|| Norm { weight: case.weight(|random| norm_weight(random, cols)), eps: 1e-5 });
        let x = case.input("x", cols, 1.0);
        let projections: Vec<_> = [("a", 33), ("b", 1), ("c", 16)]
            .map(|(name, rows)| Projection {
                weight: case.weight(|random| matrix(random, name, format, rows, cols)),
                bias: (rows == 16).then(|| case.weight(|random| bias(random, rows))),
                out: case.buffer(name, rows),
            })
            .into();
        let compare = projections.iter().filter(|p| p.out != projections[1].out).map(|p| p.out).collect();
        case.push(Self { x, norm, projections });
        case.build_rows(n_tokens, compare)
    }
}
