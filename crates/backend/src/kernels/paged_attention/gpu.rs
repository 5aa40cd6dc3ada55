//! `paged_attention` on GPUs: one threadgroup a row and query head.

use super::PagedAttention;
use crate::gpu::args::AttentionArgs;
use crate::gpu::formats::kv_kernel_name;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::PAGED_ATTENTION;
use crate::{Result, Rows};

/// `ATTENTION_SIMDGROUPS` of the kernel, 32 threads each.
const THREADS: u32 = 8 * 32;
/// `ATTENTION_MAX_DIM` of the kernel.
const MAX_DIM: usize = 256;

impl PagedAttention {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let (layer, group) = lowering.cache(self.cache);
        let absent = |what, reason| lowering.absent("paged_attention", what, reason);
        if layer.k_dim.max(layer.v_dim) > MAX_DIM {
            let what = format!("heads of {} and {}", layer.k_dim, layer.v_dim);
            return Err(absent(what, "a lane holds at most 8 of a head's elements, 256 in all"));
        }
        if layer.k_format != layer.v_format {
            let what = format!("{} keys with {} values", layer.k_format.name(), layer.v_format.name());
            return Err(absent(what, "only equal formats have kernels; give keys and values the same"));
        }
        let name = kv_kernel_name(layer.k_format);
        let name =
            name.map_err(|reason| absent(format!("{} keys and values", layer.k_format.name()), reason))?;
        let (_, block_tables_at) = lowering.layout.groups[layer.group];
        let args = AttentionArgs {
            n_rows_at: Layout::n_rows_at(Rows::Tokens),
            places_at: lowering.layout.places,
            sequences_at: lowering.layout.sequences,
            block_tables_at,
            max_pages: lowering.u32(lowering.layout.max_pages)?,
            page_size: group.page_size,
            n_heads: lowering.u32(self.n_heads)?,
            n_kv_heads: lowering.u32(layer.n_kv_heads)?,
            k_dim: lowering.u32(layer.k_dim)?,
            v_dim: lowering.u32(layer.v_dim)?,
            window: group.window.unwrap_or(0),
            scale: self.scale,
            softcap: self.softcap.unwrap_or(0.0),
        };
        let grid = Grid { x: args.n_heads, rows: RowsOf::All(Rows::Tokens), rows_each: 1, threads: THREADS };
        let (keys, values) = (Argument::Keys(self.cache), Argument::Values(self.cache));
        let buffers = [lowering.buffer(self.q), keys, values, lowering.buffer(self.out)];
        let entry = format!("paged_attention_{name}");
        lowering.launch(&PAGED_ATTENTION, entry, grid, args, &buffers);
        Ok(())
    }
}
