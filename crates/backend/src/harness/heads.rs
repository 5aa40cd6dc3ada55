//! Queries, keys and values with what turns and stores them, and attention with the map behind it, as where launches
//! do two of these.

use std::sync::Arc;

use gguf::Format;

use super::build::{bias, inputs, matrix, norm_weight, one_layer};
use super::{Case, CaseBuilder, Random};
use crate::bounds;
use crate::kernels::linear_add::LinearAdd;
use crate::kernels::norm_linear::{NormLinear, Projection};
use crate::kernels::paged_attention::PagedAttention;
use crate::kernels::rms_norm::Norm;
use crate::kernels::rope_store::{QkNorm, Rope, RopePairs, RopeStore};
use crate::{CacheLayerId, KvFormat};

const COLS: usize = 256;
const N_HEADS: usize = 8;
const N_KV_HEADS: usize = 2;
/// The positions that rows see, at most.
const CONTEXT: usize = 20;

/// What such a case is of; the maps of q, k and v have biases.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Of the weights of q, k and v; the map behind attention has that of q, or BF16 where its rows are no whole blocks.
    pub formats: [Format; 3],
    /// Elements of a key and of a value.
    pub dims: [usize; 2],
    /// Of keys and values.
    pub kv_formats: [KvFormat; 2],
    /// How elements pair up, and how many pairs a head has.
    pub rope: Option<(RopePairs, u8)>,
    /// Whether heads of q and k are normalised.
    pub has_norm: bool,
}

impl Heads {
    /// A map of attention over what is stored, for `runs` of sequences of `(rows, context)`. Maps that are not `together` are
    /// ops of their own, which nobody joins with what stores their results.
    pub fn case(&self, random: &mut Random, together: bool, runs: &[&[(u32, u32)]]) -> Case {
        let Self { formats, dims, kv_formats, rope, has_norm } = *self;
        let cache = one_layer(N_KV_HEADS, dims, kv_formats, 16, Some(CONTEXT as u32));
        // The errors of maps reach what is compared through queries, keys and values.
        let map = formats.map(|format| bounds::linear(format, COLS));
        let bound = map[0].plus(map[1]).plus(map[2]).times(3.0);
        let bound = bound.plus(bounds::attention(dims[0], CONTEXT, kv_formats[0], kv_formats[1]));
        let cols = N_HEADS * dims[1];
        let output = if cols.is_multiple_of(formats[0].block_len()) { formats[0] } else { Format::BF16 };
        let bound = bound.plus(bounds::linear(output, cols));
        let mut case = CaseBuilder::new(random, format!("heads {self:?}"), bound);
        let norm = |case: &mut CaseBuilder<'_>, len, eps| {
            let weight = case.weight(|random| norm_weight(random, len));
            Norm { weight, eps }
        };
        let x_norm = Some(norm(&mut case, COLS, 1e-5));
        let qk_norm =
            has_norm.then(|| QkNorm { q: norm(&mut case, dims[0], 1e-6), k: norm(&mut case, dims[0], 1e-6) });
        let x = case.input("x", COLS, 1.0);
        let heads = [(N_HEADS, dims[0]), (N_KV_HEADS, dims[0]), (N_KV_HEADS, dims[1])];
        let [q, k, v] = heads.map(|(n, dim)| case.buffer("head", n * dim));
        let projections = [q, k, v].into_iter().zip(heads).zip(formats).map(|((out, (n, dim)), format)| {
            let weight = case.weight(|random| matrix(random, "w", format, n * dim, COLS));
            Projection { weight, bias: Some(case.weight(|random| bias(random, n * dim))), out }
        });
        let projections: Vec<_> = projections.collect();
        for projections in projections.chunks(if together { 3 } else { 1 }) {
            case.push(NormLinear { x, norm: x_norm, projections: projections.to_vec() });
        }
        let rope = rope.map(|(pairs, n_pairs)| {
            let inv_freq: Arc<[f32]> = (0..n_pairs).map(|i| 0.7_f32.powi(i.into())).collect();
            Rope { pairs, inv_freq, magnitude: 1.1 }
        });
        let layer = CacheLayerId(0);
        case.push(RopeStore { q, k, v, n_heads: N_HEADS, qk_norm, rope, cache: layer });
        let out = case.buffer("out", cols);
        case.push(PagedAttention { q, cache: layer, n_heads: N_HEADS, scale: 0.15, softcap: None, out });
        let weight = case.weight(|random| matrix(random, "output", output, COLS, cols));
        let residual = case.input("residual", COLS, 0.1);
        case.push(LinearAdd { x: out, weight, bias: None, post_norm: None, scale: 1.0, residual });
        let runs = runs.iter().map(|sequences| inputs(&cache, sequences)).collect();
        case.build(cache, runs, vec![residual])
    }
}

/// Rows of [`cases`] with many.
const MANY: usize = 37;

/// One generated row, several and many behind prompts, in every format of the cache, with and without what keeps an
/// output from being turned with its neighbour alone.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let adjacent = |n| Some((RopePairs::Adjacent, n));
    let of = |formats, kv_formats, rope| Heads { formats, dims: [64; 2], kv_formats, rope, has_norm: false };
    let mixed = [Format::Q4_K, Format::Q4_K, Format::Q6_K];
    let heads = [
        of([Format::Q4_0; 3], [KvFormat::F16; 2], adjacent(32)),
        of(mixed, [KvFormat::BF16, KvFormat::Fp8], adjacent(9)),
        of([Format::Q5_0; 3], [KvFormat::F32, KvFormat::F16], None),
        of([Format::BF16; 3], [KvFormat::Fp8, KvFormat::F16], adjacent(32)),
        of([Format::Q8_0; 3], [KvFormat::Q8_0, KvFormat::F16], adjacent(32)),
        of([Format::Q5_K; 3], [KvFormat::F16; 2], Some((RopePairs::Halves, 32))),
        Heads { has_norm: true, ..of([Format::Q3_K; 3], [KvFormat::F16; 2], adjacent(16)) },
        Heads { dims: [48, 80], ..of([Format::Q4_0; 3], [KvFormat::F16; 2], adjacent(24)) },
    ];
    let many = [(7, 1), (8, 2), (9, 3)].map(|(first, other)| {
        let mut sequences = [(1, other); MANY];
        sequences[0] = if first == 7 { (7, 7) } else { (1, first) };
        sequences
    });
    let runs: [&[&[(u32, u32)]]; 3] = [
        &[&[(7, 7)], &[(1, 8)], &[(1, 9)]],
        &[&[(7, 7), (1, 1), (1, 1)], &[(1, 8), (4, 5), (1, 2)], &[(1, 9), (1, 6), (1, 3)]],
        &[&many[0], &many[1], &many[2]],
    ];
    let mut case = |heads: &Heads, i: usize| {
        let mut case = heads.case(random, true, runs[i]);
        case.name += ["", ", several rows", ", many rows"][i];
        case
    };
    let few = heads.iter().flat_map(|heads| [(heads, 0), (heads, 1)]);
    few.chain(heads[..2].iter().map(|heads| (heads, 2))).map(|(heads, i)| case(heads, i)).collect()
}
