//! The maps of queries, keys and values with what stores them: `simd_qkv.metal` does both for
//! generated rows.

use super::{MAX_MAPS, SimdArgs, args, buffers, format_name, prompts, results, rows_and_outs, same_formats};
use crate::gpu::args::RopeStoreArgs;
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::source::SIMD_QKV;
use crate::gpu::tiles::convert::Input;
use crate::gpu::tiles::linear::{Map, Maps};
use crate::kernels::norm_linear::NormLinear;
use crate::kernels::rope_store::RopeStore;
use crate::{BufferId, Result};

const THREADS: u32 = 256;

/// As `simd_qkv.metal` has it.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct QkvArgs {
    /// Blocks are heads here.
    maps: SimdArgs,
    rope: RopeStoreArgs,
    first_heads: [u32; MAX_MAPS],
}

/// Two ops that become such launches.
pub(crate) struct Qkv<'a> {
    maps: &'a NormLinear,
    store: &'a RopeStore,
}

/// One of the maps, its first head and its heads' length.
#[derive(Debug, Clone, Copy)]
struct HeadMap {
    map: Map,
    first_head: usize,
    dim: usize,
}

impl<'a> Qkv<'a> {
    /// The two ops, if the second stores what the first makes and nothing else.
    pub fn find(lowering: &Lowering<'_>, maps: &'a NormLinear, store: &'a RopeStore) -> Option<Self> {
        let outs: Vec<BufferId> = maps.projections.iter().map(|projection| projection.out).collect();
        let is_pair = super::can(lowering) && outs == [store.q, store.k, store.v];
        is_pair.then_some(Self { maps, store })
    }

    /// Adds the launches.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let (layer, _) = lowering.cache(self.store.cache);
        let desc = lowering.desc(self.maps.x);
        let (n_heads, n_kv_heads) = (self.store.n_heads, layer.n_kv_heads);
        let heads = [(0, layer.k_dim), (n_heads, layer.k_dim), (n_heads + n_kv_heads, layer.v_dim)];
        let maps = self.maps.projections.iter().zip(heads).map(|(projection, (first_head, dim))| {
            let out = lowering.buffer(projection.out);
            HeadMap { map: Map { weight: projection.weight, bias: projection.bias, out }, first_head, dim }
        });
        let maps: Vec<HeadMap> = maps.collect();
        let x = lowering.buffer(self.maps.x);
        let input = Input { x, cols: desc.cols, norm: self.maps.norm, gather: false };
        for heads in same_formats(lowering, &maps, |heads| heads.map.weight) {
            let maps: Vec<Map> = heads.iter().map(|heads| heads.map).collect();
            let maps = Maps { maps: &maps, rows: desc.rows, scale: 1.0, softcap: None, add: false };
            self.launch_generated(lowering, &input, &maps, &heads)?;
            prompts::launch(lowering, &input, &maps, 0)?;
        }
        self.store.launch_prompts(lowering)
    }

    /// Generated rows, by maps of one format.
    fn launch_generated(
        &self,
        lowering: &mut Lowering<'_>,
        input: &Input,
        maps: &Maps<'_>,
        heads: &[HeadMap],
    ) -> Result<()> {
        let (rows, (rows_each, _)) = (RowsOf::Generated, rows_and_outs(lowering, maps));
        let mut args = args(lowering, input, maps, rows, 1)?;
        let (mut first_heads, mut groups) = ([0; MAX_MAPS], [0; MAX_MAPS]);
        for (i, heads) in heads.iter().enumerate() {
            first_heads[i] = lowering.u32(heads.first_head)?;
            groups[i] = lowering.u32(lowering.weight(heads.map.weight).rows() / heads.dim)?;
        }
        args.set_groups(groups);
        let grid = Grid { x: args.maps.n_blocks, rows, rows_each, threads: THREADS };
        let cache = [Argument::Keys(self.store.cache), Argument::Values(self.store.cache)];
        // The maps' own are those of q, k and v.
        let buffers = [buffers(input, maps), self.store.buffers(lowering)[3..].to_vec()].concat();
        let args = QkvArgs { maps: args, rope: self.store.args(lowering)?, first_heads };
        let format = format_name(lowering, maps)?;
        let launch = lowering.launch_for(&SIMD_QKV, (format, &format!("_{rows_each}")), grid, args, &buffers);
        launch.writing(&[results(maps), cache.to_vec()].concat());
        Ok(())
    }
}
