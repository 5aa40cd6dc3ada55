//! Attention whose splits are folded, for generated rows, into what the map behind it takes, where nobody else reads
//! attention's results.

use super::convert::{Converted, Form, Input};
use super::gated::reads_first;
use super::linear;
use super::packing::TILE_COLS;
use crate::gpu::args::MergeArgs;
use crate::gpu::inputs::RowsOf;
use crate::gpu::linear::Linear;
use crate::gpu::lower::Lowering;
use crate::kernels::linear_add::{self, LinearAdd};
use crate::kernels::paged_attention::PagedAttention;
use crate::{Op, Result};

/// Two ops that become such launches.
pub(crate) struct Attended<'a> {
    attention: &'a PagedAttention,
    output: &'a LinearAdd,
    input: Input,
    /// As the map takes generated rows.
    form: Form,
    is_single: bool,
}

impl<'a> Attended<'a> {
    /// The two ops, if they are such a pair; `later` are the ops behind them.
    pub fn find(
        lowering: &Lowering<'_>,
        attention: &'a PagedAttention,
        output: &'a LinearAdd,
        later: &[Op],
    ) -> Option<Self> {
        let (layer, _) = lowering.cache(attention.cache);
        let is_pair = output.x == attention.out
            && !reads_first(later, attention.out)
            && linear::can(lowering, [output.weight])
            // A head has whole tiles.
            && layer.v_dim.is_multiple_of(TILE_COLS)
            && attention.decoding(lowering).is_ok_and(|decoding| decoding.is_some());
        if !is_pair {
            return None;
        }
        let cols = lowering.desc(attention.out).cols;
        let input = Input { x: lowering.buffer(attention.out), cols, norm: None, gather: false };
        let (form, rows_each) = linear::takes(lowering, output.weight, &input, RowsOf::Generated).ok()?;
        let is_single = rows_each == 1 && form != Form::Prompt;
        (form != Form::Split).then_some(Self { attention, output, input, form, is_single })
    }

    /// Adds the launches.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let (attention, output) = (self.attention, self.output);
        let decoding = attention.decoding(lowering)?.expect("`find` has asked");
        let (decoding, partials, end) = attention.launch_decode(lowering, decoding)?;
        let most = RowsOf::Generated.most(lowering.bucket);
        let bytes = self.form.bytes(most, self.input.cols / TILE_COLS);
        let (x, end) = lowering.scratch_bytes(end, bytes)?;
        let args = MergeArgs {
            attention: decoding.args,
            results: Form::as_results(Some(self.form)),
            is_single: self.is_single.into(),
            x_rows: lowering.u32(most)?,
        };
        let buffers = [partials, self.input.x, x];
        attention.launch_merge(lowering, decoding.definitions, "merge_converted", args, &buffers);
        attention.launch_prompt_rows(lowering)?;
        let map = Linear::new(output.weight, output.bias, lowering.desc(output.x).rows);
        let residual = lowering.buffer(output.residual);
        let converted = Converted { form: self.form, is_single: self.is_single, x };
        linear_add::launch_tiles(
            lowering,
            map,
            output.post_norm,
            output.scale,
            end,
            residual,
            &|lowering, maps, skip| {
                maps.launch_rows(lowering, &self.input, RowsOf::Generated, skip, Some(converted))?;
                maps.launch_rows(lowering, &self.input, RowsOf::Prompts, skip, None)
            },
        )
    }
}
