//! `out[t] = scale * table[ids[t]]`, or the given embeddings unscaled.

use crate::bounds;
use crate::check::{Access, Shapes};
use crate::harness::{Case, CaseBuilder, Random, formats, matrix, odd_cols};
use crate::reference::Context;
use crate::{BufferId, Result, Rows, TokenInputs, WeightId};

/// Looks up each row's token. Ids beyond the table are refused before the step runs.
#[derive(Debug, Clone)]
pub struct Embed {
    /// `[n_vocab, n_embd]`, any format.
    pub table: WeightId,
    /// Multiplies every element (Gemma: `sqrt(n_embd)`, Granite: its own).
    pub scale: f32,
    /// `[tokens, n_embd]`
    pub out: BufferId,
}

impl Embed {
    pub(crate) fn check(&self, shapes: &Shapes<'_>) -> Result<()> {
        shapes.require(self.scale.is_finite(), || format!("scale is {}", self.scale))?;
        shapes.expect_buffer(self.out, Rows::Tokens, shapes.weight(self.table)?.cols())
    }

    pub(crate) fn accesses(&self, visit: &mut dyn FnMut(BufferId, Access)) {
        visit(self.out, Access::Write);
    }

    pub(crate) fn reference(&self, context: &mut Context<'_>) -> Result<()> {
        let rows = match &context.inputs.tokens {
            TokenInputs::Ids(ids) => {
                let rows = ids.iter().map(|&id| {
                    let row = context.weight_row(self.table, id as usize)?;
                    Ok(row.into_iter().map(|x| x * f64::from(self.scale)).collect())
                });
                rows.collect::<Result<Vec<Vec<f64>>>>()?
            }
            TokenInputs::Embeddings { values, .. } => {
                let n_embd = context.weight(self.table).cols();
                values.chunks_exact(n_embd).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
            }
        };
        context.set(self.out, &rows);
        Ok(())
    }
}

impl Embed {
    /// Every format, and embeddings given ready-made.
    pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
        let mut cases = Vec::new();
        for format in formats() {
            for ready_made in [false, true] {
                let kind = if ready_made { "given" } else { "ids" };
                // One product a value.
                let (cols, bound) = (odd_cols(format), bounds::float_sum(1));
                let mut case = CaseBuilder::new(random, format!("embed {format} {kind}"), bound);
                let table = case.weight(|random| matrix(random, "table", format, 33, cols));
                let out = case.buffer("out", cols);
                case.push(Self { table, scale: 1.7, out });
                let given = case.random.values(5 * cols, 1.0);
                let mut case = case.build_rows(5, vec![out]);
                if ready_made {
                    case.runs[0].tokens = TokenInputs::Embeddings { values: given, n_tokens: 5 };
                }
                cases.push(case);
            }
        }
        cases
    }
}
