//! `embed` on GPUs: a threadgroup a row, or from tiles for some of its columns.

use super::Embed;
use crate::gpu::args::EmbedArgs;
use crate::gpu::choose;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::{EMBED, EMBED_TILES};
use crate::gpu::tiles::packing::Packing;
use crate::{Result, Rows};

const THREADS: u32 = 128;
/// Columns of a threadgroup of `embed_tiles.cu`, four a thread.
const TILES_COLS: u32 = 4 * THREADS;

impl Embed {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        choose::launch_carry(lowering)?;
        let table = lowering.weight(self.table);
        let packing = Packing::of(table.format()).filter(|_| lowering.device.has_tiles);
        let args = EmbedArgs {
            n_rows_at: Layout::n_rows_at(Rows::Tokens),
            ids_at: lowering.layout.ids,
            cols: lowering.u32(table.cols())?,
            scale: self.scale,
        };
        let grid = Grid { x: 1, rows: RowsOf::All(Rows::Tokens), rows_each: 1, threads: THREADS };
        let out = lowering.buffer(self.out);
        let launch = match packing {
            Some(packing) => {
                let buffers = [Argument::Tiles(self.table), out];
                let grid = Grid { x: args.cols.div_ceil(TILES_COLS), ..grid };
                let launch = lowering.launch_for(&EMBED_TILES, (packing.name(), ""), grid, args, &buffers);
                launch.early = true;
                launch
            }
            None => {
                let format = lowering.format_name("embed", table.format())?;
                let buffers = [Argument::Weight(self.table), out];
                lowering.launch_for(&EMBED, (format, ""), grid, args, &buffers)
            }
        };
        launch.embeds = true;
        Ok(())
    }
}
