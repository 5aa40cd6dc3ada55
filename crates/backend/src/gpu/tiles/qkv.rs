//! The maps of queries, keys and values with what turns and stores them, both in one launch for generated rows:
//! `generated_qkv.cu` for up to eight, `rounded_qkv.cu` for more in bfloat16.

use super::convert::Input;
use super::gated::reads_first;
use super::kernel::Kind;
use super::linear::{self, Map, MapLaunch, Maps, packing};
use crate::gpu::args::QkvTileArgs;
use crate::gpu::inputs::RowsOf;
use crate::gpu::lower::Lowering;
use crate::gpu::source::{GENERATED_QKV, ROUNDED_QKV};
use crate::kernels::norm_linear::{NormLinear, Projection};
use crate::kernels::rope_store::{self, RopePairs, RopeStore};
use crate::{KvFormat, Op, Result, Rows};

/// Two ops that become such launches.
pub(crate) struct TurnedHeads<'a> {
    maps: &'a NormLinear,
    store: &'a RopeStore,
}

impl<'a> TurnedHeads<'a> {
    /// The two ops, if they are such a pair; `later` are the ops behind them.
    pub fn find(
        lowering: &Lowering<'_>,
        maps: &'a NormLinear,
        store: &'a RopeStore,
        later: &[Op],
    ) -> Option<Self> {
        let projections = &maps.projections;
        let is_pair = projections.iter().map(|p| p.out).eq([store.q, store.k, store.v])
            && linear::can(lowering, projections.iter().map(|p| p.weight))
            && is_elementwise(lowering, store)
            // Keys and values go to the cache alone.
            && !reads_first(later, store.k)
            && !reads_first(later, store.v);
        let found = Self { maps, store };
        let takes = |map| {
            let kernel = linear::kernel(lowering, &found.input(lowering), RowsOf::Generated, &[map]);
            kernel.is_ok_and(|kernel| kernel.kind == Kind::Rounded || kernel.rows_each <= 8)
        };
        (is_pair && found.maps(lowering).into_iter().all(takes)).then_some(found)
    }

    fn input(&self, lowering: &Lowering<'_>) -> Input {
        let cols = lowering.desc(self.maps.x).cols;
        Input { x: lowering.buffer(self.maps.x), cols, norm: self.maps.norm, gather: false }
    }

    fn maps(&self, lowering: &Lowering<'_>) -> Vec<Map> {
        let map = |p: &Projection| Map { weight: p.weight, bias: p.bias, out: lowering.buffer(p.out) };
        self.maps.projections.iter().map(map).collect()
    }

    /// Adds the launches.
    pub fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let (input, all) = (self.input(lowering), self.maps(lowering));
        let maps = Maps { maps: &all, rows: Rows::Tokens, scale: 1.0, softcap: None, add: false };
        maps.each(lowering, &input, RowsOf::Generated, 0, None, &|lowering, launch| {
            self.multiply(lowering, &maps, launch)
        })?;
        maps.launch_rows(lowering, &input, RowsOf::Prompts, 0, None)?;
        self.store.launch_prompts(lowering)
    }

    fn multiply(&self, lowering: &mut Lowering<'_>, all: &Maps<'_>, launch: MapLaunch<'_>) -> Result<()> {
        let MapLaunch { maps, shape, rows, kernel, x, skip } = launch;
        let (args, of_maps) = all.arguments(lowering, maps, shape, |outs| kernel.blocks(outs))?;
        let kind = |i: usize| {
            let is_same = |map: &Map| maps.get(i).is_some_and(|own| own.out == map.out);
            all.maps.iter().position(is_same).map_or(Ok(0), |kind| lowering.u32(kind))
        };
        let (kind0, kind1, kind2) = (kind(0)?, kind(1)?, kind(2)?);
        let args = QkvTileArgs { maps: args, rope: self.store.args(lowering)?, kind0, kind1, kind2 };
        let of_store = &self.store.buffers(lowering)[5..];
        let mut buffers = [&x, &of_maps, of_store].concat();
        let source = if kernel.kind == Kind::Rounded { &ROUNDED_QKV } else { &GENERATED_QKV };
        if kernel.kind == Kind::Rounded {
            buffers.extend(kernel.exchange(lowering, rows, args.maps.n_blocks, skip)?.0);
        }
        let suffix = format!("_{}", kernel.rows_each);
        let of_kernel = (source, packing(lowering, &maps[0]), &*suffix);
        let launch = kernel.launch(lowering, of_kernel, (rows, args.maps.n_blocks), args, &buffers);
        launch.definitions += &kernel.row_definition(shape.cols as usize);
        launch.definitions += &rope_store::definitions(&args.rope);
        Ok(())
    }
}

/// Whether each element is turned with its neighbour alone, and stored by itself.
fn is_elementwise(lowering: &Lowering<'_>, store: &RopeStore) -> bool {
    let (layer, _) = lowering.cache(store.cache);
    let is_turned_in_pairs = store
        .rope
        .as_ref()
        .is_none_or(|rope| rope.pairs == RopePairs::Adjacent && layer.k_dim.is_multiple_of(2));
    store.qk_norm.is_none()
        && is_turned_in_pairs
        && ![layer.k_format, layer.v_format].contains(&KvFormat::Q8_0)
}
