//! `embed` on GPUs: one threadgroup a row.

use super::Embed;
use crate::gpu::args::EmbedArgs;
use crate::gpu::inputs::Layout;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::EMBED;
use crate::{Result, Rows};

const THREADS: u32 = 128;

impl Embed {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let table = lowering.weight(self.table);
        let format = lowering.format_name("embed", table.format())?;
        let args = EmbedArgs {
            n_rows_at: Layout::n_rows_at(Rows::Tokens),
            ids_at: lowering.layout.ids,
            cols: lowering.u32(table.cols())?,
            scale: self.scale,
        };
        let grid = Grid { x: 1, rows: Rows::Tokens, rows_each: 1, threads: THREADS };
        let buffers = [Argument::Weight(self.table), lowering.buffer(self.out)];
        lowering.launch_for(&EMBED, (format, ""), grid, args, &buffers);
        lowering.launches.last_mut().expect("one was just added").embeds = true;
        Ok(())
    }
}
