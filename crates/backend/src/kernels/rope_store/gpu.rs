//! `rope_store` on GPUs: one SIMD-group a head of q, k or v.

use super::{RopePairs, RopeStore};
use crate::gpu::args::RopeStoreArgs;
use crate::gpu::inputs::{Layout, RowsOf};
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::ROPE_STORE;
use crate::{Result, Rows};

/// Heads of a row that a threadgroup does.
const HEADS_EACH: usize = 8;
/// Rotated pairs of a head, at most, as `known_turns.h` has them.
pub(crate) const MAX_PAIRS: u32 = 128;

/// What CUDA's kernels are compiled with for a model.
pub(crate) fn definitions(args: &RopeStoreArgs) -> String {
    [
        ("NORM", args.has_norm),
        ("ADJACENT", args.adjacent),
        ("PAIRS", args.n_pairs),
        ("K_DIM", args.k_dim),
        ("V_DIM", args.v_dim),
        ("K_FORMAT", args.k_format),
        ("V_FORMAT", args.v_format),
    ]
    .map(|(name, value)| format!("#define ROPE_{name} {value}\n"))
    .concat()
}

impl RopeStore {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        if lowering.device.has_tiles {
            self.launch(lowering, RowsOf::Generated, "rope_store")?;
            return self.launch_prompts(lowering);
        }
        self.launch(lowering, RowsOf::All(Rows::Tokens), "rope_store")
    }

    /// The rows of prompts alone.
    pub(crate) fn launch_prompts(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        self.launch(lowering, RowsOf::Prompts, "rope_store_prompts")
    }

    fn launch(&self, lowering: &mut Lowering<'_>, rows: RowsOf, entry: &str) -> Result<()> {
        let (layer, _) = lowering.cache(self.cache);
        let grid = Grid {
            x: lowering.u32((self.n_heads + 2 * layer.n_kv_heads).div_ceil(HEADS_EACH))?,
            rows,
            rows_each: 1,
            threads: 32 * HEADS_EACH as u32,
        };
        let (has_tiles, (_, n_rows_at)) = (lowering.device.has_tiles, Layout::span(rows));
        let (args, buffers) = (RopeStoreArgs { n_rows_at, ..self.args(lowering)? }, self.buffers(lowering));
        let [q, k, v, .., keys, values] = buffers;
        let launch = lowering.launch(&ROPE_STORE, entry, grid, args, &buffers);
        launch.writing(&[q, k, v, keys, values]).early = true;
        if has_tiles {
            launch.definitions = definitions(&args);
        }
        Ok(())
    }

    pub(crate) fn args(&self, lowering: &Lowering<'_>) -> Result<RopeStoreArgs> {
        let (layer, group) = lowering.cache(self.cache);
        let (slots_at, _) = lowering.layout.groups[layer.group];
        let n_pairs = lowering.u32(self.rope.as_ref().map_or(0, |rope| rope.inv_freq.len()))?;
        if n_pairs > MAX_PAIRS {
            let reason = "a row's turns have room for 128 pairs, and attention for heads of 256 elements";
            return Err(lowering.absent("rope_store", format!("heads of {n_pairs} rotated pairs"), reason));
        }
        Ok(RopeStoreArgs {
            n_rows_at: Layout::n_rows_at(Rows::Tokens),
            positions_at: lowering.layout.positions,
            slots_at,
            page_size: group.page_size,
            n_heads: lowering.u32(self.n_heads)?,
            n_kv_heads: lowering.u32(layer.n_kv_heads)?,
            k_dim: lowering.u32(layer.k_dim)?,
            v_dim: lowering.u32(layer.v_dim)?,
            k_format: layer.k_format as u32,
            v_format: layer.v_format as u32,
            has_norm: self.qk_norm.is_some().into(),
            n_pairs,
            adjacent: self.rope.as_ref().is_some_and(|rope| rope.pairs == RopePairs::Adjacent).into(),
            q_eps: self.qk_norm.map_or(0.0, |norms| norms.q.eps),
            k_eps: self.qk_norm.map_or(0.0, |norms| norms.k.eps),
            magnitude: self.rope.as_ref().map_or(1.0, |rope| rope.magnitude),
        })
    }

    /// q, k, v, their norms' weights, frequencies, the cache.
    pub(crate) fn buffers(&self, lowering: &mut Lowering<'_>) -> [Argument; 8] {
        let [q, k, v] = [self.q, self.k, self.v].map(|id| lowering.buffer(id));
        // Where there is no norm or no rotation its table is never read; any buffer stands for it.
        let norms = self.qk_norm.map(|norms| [norms.q, norms.k].map(|norm| Argument::Weight(norm.weight)));
        let [q_norm, k_norm] = norms.unwrap_or([Argument::Inputs; 2]);
        let inv_freq = self.rope.as_ref().map_or(Argument::Inputs, |rope| lowering.table(&rope.inv_freq));
        let (keys, values) = (Argument::Keys(self.cache), Argument::Values(self.cache));
        [q, k, v, q_norm, k_norm, inv_freq, keys, values]
    }
}
