//! Attention whose splits are folded, for generated rows, into what the map behind it takes, where nobody else reads
//! attention's results.

use super::convert::{Converted, Form, Input};
use super::gated::reads_first;
use super::linear::{self, MapLaunch, Maps, packing};
use super::packing::TILE_COLS;
use super::step_layer::MOST_V_DIM;
use crate::gpu::args::{FoldedArgs, MergeArgs};
use crate::gpu::inputs::RowsOf;
use crate::gpu::linear::Linear;
use crate::gpu::lower::{Argument, Lowering, When};
use crate::gpu::source::FOLDED_LINEAR;
use crate::kernels::linear_add::{self, LinearAdd};
use crate::kernels::paged_attention::{Decoding, PagedAttention};
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

    /// Whether there is a kernel for a single row that folds splits itself, where they are few.
    fn may_fold(&self, lowering: &Lowering<'_>) -> bool {
        let (layer, _) = lowering.cache(self.attention.cache);
        // Where all layers are one launch, that has the short contexts.
        self.is_single
            && !lowering.is_op_by_op
            && RowsOf::Generated.most(lowering.bucket) == 1
            && layer.v_dim <= MOST_V_DIM as usize
    }

    /// Adds the launches.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let (attention, output) = (self.attention, self.output);
        let mut decoding = attention.decoding(lowering)?.expect("`find` has asked");
        let results = Form::as_results(Some(self.form));
        decoding.definitions +=
            &format!("#define MERGE_RESULTS {results}\n#define MERGE_SINGLE {}\n", self.is_single);
        let (decoding, partials, end) = attention.launch_decode(lowering, decoding)?;
        let folds = self.may_fold(lowering).then_some((&decoding, partials));
        let before = lowering.launches.len();
        let (x, end) = self.merge(lowering, &decoding, (partials, end))?;
        self.leave_short(lowering, folds, before);
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
                let before = lowering.launches.len();
                maps.launch_rows(lowering, &self.input, RowsOf::Generated, skip, Some(converted))?;
                self.leave_short(lowering, folds, before);
                if let Some((decoding, partials)) = folds {
                    maps.each(lowering, &self.input, RowsOf::Generated, skip, None, &|lowering, launch| {
                        fold(lowering, (decoding, partials), maps, launch)
                    })?;
                }
                maps.launch_rows(lowering, &self.input, RowsOf::Prompts, skip, None)
            },
        )
    }

    /// Launches from the `from`th on are not for short contexts, where others fold splits.
    fn leave_short(&self, lowering: &mut Lowering<'_>, folds: Option<(&Decoding, Argument)>, from: usize) {
        if folds.is_some() {
            lowering.launches[from..].iter_mut().for_each(|launch| launch.when = When::Otherwise);
        }
    }

    /// Folds splits, `partials`, into rows as the map takes them, in scratch behind `end` bytes.
    fn merge(
        &self,
        lowering: &mut Lowering<'_>,
        decoding: &Decoding,
        (partials, end): (Argument, usize),
    ) -> Result<(Argument, usize)> {
        let most = RowsOf::Generated.most(lowering.bucket);
        let bytes = self.form.bytes(most, self.input.cols / TILE_COLS);
        let (x, end) = lowering.scratch_bytes(end, bytes)?;
        let args = MergeArgs { attention: decoding.args, x_rows: lowering.u32(most)? };
        let (definitions, buffers) = (decoding.definitions.clone(), [partials, self.input.x, x]);
        self.attention.launch_merge(lowering, definitions, "merge_converted", args, &buffers);
        Ok((x, end))
    }
}

/// The map of a single row whose splits, `partials`, are folded where they are read.
fn fold(
    lowering: &mut Lowering<'_>,
    (decoding, partials): (&Decoding, Argument),
    all: &Maps<'_>,
    launch: MapLaunch<'_>,
) -> Result<()> {
    let MapLaunch { maps, shape, rows, kernel, x, .. } = launch;
    let (args, of_maps) = all.arguments(lowering, maps, shape, |outs| kernel.blocks(outs))?;
    let args = FoldedArgs { maps: args, attention: decoding.args };
    let buffers = [&[x[0], partials], &of_maps[..]].concat();
    let suffix = if all.add { "_add" } else { "_store" };
    let of_kernel = (&FOLDED_LINEAR, packing(lowering, &maps[0]), suffix);
    let launch = kernel.launch(lowering, of_kernel, (rows, args.maps.n_blocks), args, &buffers);
    launch.definitions += &decoding.definitions;
    launch.when = When::Short;
    Ok(())
}
