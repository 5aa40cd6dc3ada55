//! `paged_attention` on GPUs: kernels for one shape with matrix instructions where CUDA has
//! any, else one threadgroup a row and query head; on Metal generated rows split over the context,
//! and prompts by matrices.

use bytemuck::Pod;

use super::PagedAttention;
use crate::gpu::args::AttentionArgs;
use crate::gpu::formats::kv_type;
use crate::gpu::inputs::{Layout, N_PROMPT_ITEMS_AT, RowsOf};
use crate::gpu::items;
use crate::gpu::lower::{Argument, Grid, Lowering};
use crate::gpu::simd;
use crate::gpu::source::{
    ATTENTION_ALONE, DECODE_ATTENTION, MATRIX_ATTENTION, PAGED_ATTENTION, PROMPT_ATTENTION, SPLIT_ATTENTION,
};
use crate::gpu::tiles::packing::TILE_ROWS;
use crate::gpu::tiles::step::FEW_SPLITS;
use crate::{CacheLayerConfig, KV_GROUP, KvFormat, Result, Rows};

/// `ATTENTION_SIMDGROUPS` of the general kernel, 32 threads each.
const THREADS: u32 = 8 * 32;
/// `ATTENTION_MAX_DIM` of the general kernel; the others have registers for as much.
const MAX_DIM: usize = 256;
/// Threads and the most threadgroups of `split_attention`, on Metal.
const SPLIT_THREADS: u32 = 128;
const SPLIT_GROUPS: u32 = 2048;
/// Threads and threadgroups a prompt's item of `matrix_attention`, on Metal; its heads are laid out for a multiple.
const MATRIX_THREADS: u32 = 256;
const MATRIX_PIECES: usize = 2;
const MATRIX_DIM: u32 = 32;
/// Threads of `decode_attention` and `merge_attention`, and SIMD-groups of the latter.
const DECODE_THREADS: u32 = 128;
const MERGE_SIMDGROUPS: u32 = 8;
const MERGE_THREADS: u32 = 32 * MERGE_SIMDGROUPS;
/// Positions that are copied together, and query heads that may share a key/value head.
const RUN: u32 = 16;
const MAX_GROUP: u32 = 16;
/// Threadgroups of `decode_attention` on one multiprocessor that its registers are counted for.
const MOST_BLOCKS: u32 = 6;

impl PagedAttention {
    pub(crate) fn lower(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let args = self.args(lowering)?;
        if let Some(decoding) = self.decoding(lowering)? {
            let (decoding, scratch, _) = self.launch_decode(lowering, decoding)?;
            let buffers = [scratch, lowering.buffer(self.out)];
            self.launch_merge(lowering, decoding.definitions, "merge_attention", decoding.args, &buffers);
            return self.launch_prompt_rows(lowering);
        }
        if simd::can(lowering) {
            self.launch_splits(lowering, args)?;
            return self.launch_matrices(lowering, args);
        }
        self.launch_rows(lowering, args)
    }

    fn args(&self, lowering: &Lowering<'_>) -> Result<AttentionArgs> {
        let (layer, group) = lowering.cache(self.cache);
        if layer.k_dim.max(layer.v_dim) > MAX_DIM {
            let what = format!("heads of {} and {}", layer.k_dim, layer.v_dim);
            let reason = "a lane holds at most 8 of a head's elements, 256 in all";
            return Err(lowering.absent("paged_attention", what, reason));
        }
        let (_, block_tables_at) = lowering.layout.groups[layer.group];
        let splits = &lowering.layout.splits[layer.group];
        let (sharing, chains) = sharing(lowering, layer, self.n_heads)?;
        Ok(AttentionArgs {
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
            n_items_at: N_PROMPT_ITEMS_AT,
            items_at: lowering.layout.prompt_items,
            row_items_at: splits.row_items_at,
            max_items: lowering.u32(splits.batch_items)?,
            sharing,
            chains,
        })
    }

    /// How kernels for this shape of keys and values take generated rows; `None` where there are none.
    pub(crate) fn decoding(&self, lowering: &Lowering<'_>) -> Result<Option<Decoding>> {
        let args = self.args(lowering)?;
        let (layer, _) = lowering.cache(self.cache);
        let (decode, prompt) =
            (decode_shape(layer, &args), prompt_shape(layer, lowering.device.has_warpgroups));
        let fits = decode.shared.max(prompt.shared) <= lowering.device.shared_limit;
        let is_there = lowering.device.has_tiles && fits && is_regular(layer, &args);
        let heads = args.n_heads / args.n_kv_heads;
        Ok(is_there.then(|| Decoding {
            args: AttentionArgs { n_rows_at: 2, ..args },
            definitions: [
                format!("#define ATTENTION_GROUP {heads}\n#define ATTENTION_HEADS {}\n", args.n_heads),
                format!("#define ATTENTION_PAGE {}\n", args.page_size),
                format!("#define ATTENTION_WINDOWED {}\n", args.window > 0),
                format!("#define ATTENTION_CAPPED {}\n", args.softcap > 0.0),
                decode.definitions(layer),
            ]
            .concat(),
            shared: decode.shared,
            found: found_bytes(&args),
            in_turn: decode_in_turn(layer),
        }))
    }

    /// Rows one by one, by a kernel for any shape.
    fn launch_rows(&self, lowering: &mut Lowering<'_>, args: AttentionArgs) -> Result<()> {
        let rows = RowsOf::All(Rows::Tokens);
        let grid = Grid { x: args.n_heads, rows, rows_each: 1, threads: THREADS };
        let (name, definitions) = pair(lowering.cache(self.cache).0);
        let buffers = self.buffers(lowering);
        let launch =
            lowering.launch(&PAGED_ATTENTION, format!("paged_attention_{name}"), grid, args, &buffers);
        launch.definitions = definitions;
        Ok(())
    }

    /// Generated rows on Metal: their splits, and what comes of them folded.
    fn launch_splits(&self, lowering: &mut Lowering<'_>, args: AttentionArgs) -> Result<()> {
        let (layer, _) = lowering.cache(self.cache);
        let (scratch, _) = self.partials(lowering)?;
        let x = args.max_items.saturating_mul(args.n_kv_heads).min(SPLIT_GROUPS);
        let rows_each = lowering.u32(lowering.bucket.tokens)?;
        let grid = Grid { x, rows: RowsOf::Generated, rows_each, threads: SPLIT_THREADS };
        let (name, definitions) = pair(layer);
        let [q, keys, values, out] = self.buffers(lowering);
        let buffers = [Argument::Batch(layer.group), q, keys, values, out, scratch];
        let launch =
            lowering.launch(&SPLIT_ATTENTION, format!("split_attention_{name}"), grid, args, &buffers);
        launch.writing(&[out, scratch]);
        (launch.batches, launch.definitions) = (Some(layer.group), definitions.clone());
        let grid = Grid { x: args.n_heads, rows: RowsOf::Generated, rows_each: 1, threads: SPLIT_THREADS };
        let buffers = [Argument::Batch(layer.group), scratch, out];
        let launch = lowering.launch(&SPLIT_ATTENTION, "merge_splits", grid, args, &buffers);
        launch.writing(&[out]);
        (launch.batches, launch.definitions) = (Some(layer.group), definitions);
        Ok(())
    }

    /// Rows of prompts on Metal.
    fn launch_matrices(&self, lowering: &mut Lowering<'_>, args: AttentionArgs) -> Result<()> {
        let pieces = MATRIX_PIECES * items::most_prompt_items(lowering.bucket);
        let x = lowering.u32(pieces * self.n_heads)?;
        let rows_each = lowering.u32(lowering.bucket.tokens)?;
        let grid = Grid { x, rows: RowsOf::Prompts, rows_each, threads: MATRIX_THREADS };
        let (name, definitions) = pair(lowering.cache(self.cache).0);
        let dim = args.k_dim.max(args.v_dim).next_multiple_of(MATRIX_DIM);
        let buffers = self.buffers(lowering);
        let launch =
            lowering.launch(&MATRIX_ATTENTION, format!("matrix_attention_{name}"), grid, args, &buffers);
        launch.writing(&buffers[3..]);
        launch.definitions = definitions + &format!("#define ATTENTION_DIM {dim}\n");
        Ok(())
    }

    /// Scratch for what comes of a batch's splits, and its bytes.
    fn partials(&self, lowering: &mut Lowering<'_>) -> Result<(Argument, usize)> {
        let (layer, _) = lowering.cache(self.cache);
        let parts = lowering.layout.splits[layer.group].batch_items.checked_mul(self.n_heads);
        let bytes = parts.and_then(|n| n.checked_mul((layer.v_dim + 2) * 4));
        lowering.scratch_bytes(0, bytes)
    }

    /// q, keys, values, out.
    fn buffers(&self, lowering: &Lowering<'_>) -> [Argument; 4] {
        let (keys, values) = (Argument::Keys(self.cache), Argument::Values(self.cache));
        [lowering.buffer(self.q), keys, values, lowering.buffer(self.out)]
    }

    /// Splits of generated rows; where what comes of them lies, and behind how many bytes scratch is free.
    pub(crate) fn launch_decode(
        &self,
        lowering: &mut Lowering<'_>,
        decoding: Decoding,
    ) -> Result<(Decoding, Argument, usize)> {
        let Decoding { args, shared, .. } = decoding;
        let group = lowering.cache(self.cache).0.group;
        let (scratch, end) = self.partials(lowering)?;
        let blocks = (lowering.device.shared_limit / (shared + 1024)).clamp(1, MOST_BLOCKS);
        let x = args.max_items.saturating_mul(args.n_kv_heads).min(lowering.device.units * blocks);
        let rows_each = lowering.u32(lowering.bucket.tokens)?;
        let grid = Grid { x, rows: RowsOf::Generated, rows_each, threads: DECODE_THREADS };
        let [q, keys, values, out] = self.buffers(lowering);
        let buffers = [Argument::Batch(group), q, keys, values, out, scratch];
        let launch = lowering.launch(&DECODE_ATTENTION, "decode_attention", grid, args, &buffers);
        (launch.batches, launch.early, launch.shared) = (Some(group), true, shared);
        launch.definitions.clone_from(&decoding.definitions);
        Ok((decoding, scratch, end))
    }

    /// What comes of them folded, by the kernel `entry` with `args` and `buffers`.
    pub(crate) fn launch_merge(
        &self,
        lowering: &mut Lowering<'_>,
        definitions: String,
        entry: &str,
        args: impl Pod,
        buffers: &[Argument],
    ) {
        let group = lowering.cache(self.cache).0.group;
        // Few splits of a head are a SIMD-group's. Of many rows there are enough threadgroups then if a head's many splits have
        // no threadgroup of their own; more would take a launch its time that have nothing to do.
        let (rows, n_heads) = (RowsOf::Generated, self.n_heads as u32);
        let together = n_heads.div_ceil(MERGE_SIMDGROUPS);
        let has_enough = rows.most(lowering.bucket) * together as usize >= lowering.device.units as usize;
        let x = if has_enough { together } else { n_heads };
        let grid = Grid { x, rows, rows_each: 1, threads: MERGE_THREADS };
        let buffers = [&[Argument::Batch(group)], buffers].concat();
        let launch = lowering.launch(&DECODE_ATTENTION, entry, grid, args, &buffers);
        (launch.batches, launch.early, launch.definitions) = (Some(group), true, definitions);
    }

    /// Rows of prompts, where there is a kernel for this shape.
    pub(crate) fn launch_prompt_rows(&self, lowering: &mut Lowering<'_>) -> Result<()> {
        let args = self.args(lowering)?;
        let (layer, _) = lowering.cache(self.cache);
        let shape = prompt_shape(layer, lowering.device.has_warpgroups);
        let x = lowering.u32(items::most_prompt_items(lowering.bucket) * self.n_heads)?;
        // Threadgroups of one prompt.
        let n_groups = lowering.bucket.tokens.div_ceil(items::PROMPT_ROWS as usize) * self.n_heads;
        let is_alone = n_groups <= lowering.device.units as usize;
        let rows_each = lowering.u32(lowering.bucket.tokens)?;
        let grid = Grid { x, rows: RowsOf::Prompts, rows_each, threads: shape.threads };
        let buffers = self.buffers(lowering);
        let launch = lowering.launch(&PROMPT_ATTENTION, "prompt_attention", grid, args, &buffers);
        (launch.early, launch.shared) = (true, shape.shared);
        launch.definitions = shape.definitions(layer) + if is_alone { ATTENTION_ALONE } else { "" };
        Ok(())
    }
}

/// The general kernels' name for a layer's pair of formats, and what compiles those for it alone.
fn pair(layer: &CacheLayerConfig) -> (String, String) {
    let name = format!("{}_{}", layer.k_format.name(), layer.v_format.name());
    let (k, v) = (kv_type(layer.k_format), kv_type(layer.v_format));
    let definitions = format!("#define KV_PAIRS(KERNEL) KERNEL({name}, {k}, {v})\n");
    (name, definitions)
}

/// Threadgroups that share a key/value head's splits where all layers are one launch, and how many of its splits begin a
/// chain, whose others are as far apart: each threadgroup's has one chain or several, of small elements two, for which there
/// may be room side by side. They are no fewer than the splits of short contexts, which other kernels fold too.
fn sharing(lowering: &Lowering<'_>, layer: &CacheLayerConfig, n_heads: usize) -> Result<(u32, u32)> {
    let (kv, k_dim, v_dim) = (layer.n_kv_heads, layer.k_dim, layer.v_dim);
    let bands = lowering
        .u32([n_heads * k_dim, kv * k_dim, kv * v_dim].map(|n| n.div_ceil(TILE_ROWS)).iter().sum())?;
    let sharing = (lowering.device.units.min(bands) / lowering.u32(kv)?).max(1);
    let is_small = |format: KvFormat| format.bytes(KV_GROUP) < 2 * KV_GROUP;
    let side_by_side = if is_small(layer.k_format) && is_small(layer.v_format) { 2 } else { 1 };
    Ok((sharing, sharing * side_by_side.max((FEW_SPLITS as u32).div_ceil(sharing))))
}

/// How kernels for one shape of keys and values take generated rows.
pub(crate) struct Decoding {
    pub args: AttentionArgs,
    /// What their sources are compiled with.
    pub definitions: String,
    /// Bytes of threadgroup memory for a split, and how many of them are not of keys and values.
    pub shared: u32,
    pub found: u32,
    /// Whether values follow keys in the same memory.
    pub in_turn: bool,
}

/// How a kernel for one shape is launched.
struct Shape {
    threads: u32,
    /// Bytes of threadgroup memory.
    shared: u32,
}

impl Shape {
    /// What its source is compiled with.
    fn definitions(&self, layer: &CacheLayerConfig) -> String {
        [
            ("K", kv_type(layer.k_format).to_owned()),
            ("V", kv_type(layer.v_format).to_owned()),
            ("K_DIM", layer.k_dim.to_string()),
            ("V_DIM", layer.v_dim.to_string()),
            ("THREADS", self.threads.to_string()),
            ("SHARED", self.shared.to_string()),
        ]
        .map(|(name, value)| format!("#define ATTENTION_{name} {value}\n"))
        .concat()
    }
}

/// Whether keys and values are such as the kernels for one shape copy and multiply.
fn is_regular(layer: &CacheLayerConfig, args: &AttentionArgs) -> bool {
    let is_stored = |format| format != KvFormat::F32;
    args.page_size.is_multiple_of(RUN)
        && [args.k_dim, args.v_dim].iter().all(|dim| dim.is_multiple_of(16))
        && [layer.k_format, layer.v_format].into_iter().all(is_stored)
        && args.n_heads / args.n_kv_heads <= MAX_GROUP
}

/// The distance of positions in threadgroup memory, as `cache_tiles.h` has it.
fn stride(format: KvFormat, dim: usize) -> u32 {
    let bytes = match format {
        KvFormat::Q8_0 => dim + 2 * dim.div_ceil(KV_GROUP),
        KvFormat::F32 | KvFormat::F16 | KvFormat::BF16 | KvFormat::Fp8 => format.bytes(dim) + 16,
    };
    bytes as u32
}

/// Bytes of a split's keys and of its values, as `Decode` of `decode_attention.h` has them.
fn decode_tiles(layer: &CacheLayerConfig) -> (u32, u32) {
    (128 * stride(layer.k_format, layer.k_dim), 128 * stride(layer.v_format, layer.v_dim))
}

/// Whether values follow keys in the same memory, as it has it.
fn decode_in_turn(layer: &CacheLayerConfig) -> bool {
    let (k, v) = decode_tiles(layer);
    k + v > 100 << 10
}

/// Bytes of shares and what else comes of scores, as it has them.
fn found_bytes(args: &AttentionArgs) -> u32 {
    (args.n_heads / args.n_kv_heads).div_ceil(4) * 2432
}

/// The launch's shape, as it has it.
fn decode_shape(layer: &CacheLayerConfig, args: &AttentionArgs) -> Shape {
    let (k, v) = decode_tiles(layer);
    let tiles = if decode_in_turn(layer) { k.max(v) } else { k + v };
    Shape { threads: DECODE_THREADS, shared: tiles + found_bytes(args) }
}

/// As `Prompt` of `prompt_attention.h` has it.
fn prompt_shape(layer: &CacheLayerConfig, has_warpgroups: bool) -> Shape {
    let (k_dim, v_dim) = (layer.k_dim, layer.v_dim);
    let groups = has_warpgroups && k_dim % 64 == 0 && (v_dim == 64 || v_dim % 128 == 0);
    let wide = |dim: usize| (2 * dim + if groups { 0 } else { 16 }) as u32;
    let stored = |format, dim| match format {
        KvFormat::Q8_0 | KvFormat::Fp8 => 64 * stride(format, dim),
        KvFormat::F32 | KvFormat::F16 | KvFormat::BF16 => 0,
    };
    let bytes = stored(layer.k_format, k_dim) + stored(layer.v_format, v_dim);
    let threads = if !groups && v_dim <= 128 { 128 } else { 256 };
    Shape { threads, shared: 192 * wide(k_dim) + 64 * wide(v_dim) + bytes }
}
