//! Queries, keys and values with what stores them, of maps that have nothing in common but their rows.

use std::sync::Arc;

use backend::harness::{self, Case, CaseBuilder, Outcome, Random};
use backend::kernels::norm_linear::{NormLinear, Projection};
use backend::kernels::paged_attention::PagedAttention;
use backend::kernels::rms_norm::Norm;
use backend::kernels::rope_store::{QkNorm, Rope, RopePairs, RopeStore};
use backend::{CacheLayerId, KvFormat, bounds};
use gguf::Format;

use super::{SEED, emulator};

const COLS: usize = 256;
const N_HEADS: usize = 6;
const N_KV_HEADS: usize = 2;
/// Not what a SIMD-group makes at once, nor a multiple of it.
const DIMS: [usize; 2] = [42, 23];
const KV_FORMATS: [KvFormat; 2] = [KvFormat::Q8_0, KvFormat::F16];

/// Sequences of generated and of prompt rows, whose attention is compared.
fn case(formats: [Format; 3], is_fused: bool, runs: &[&[(u32, u32)]]) -> Case {
    let cache = harness::one_layer(N_KV_HEADS, DIMS, KV_FORMATS, 16, Some(20));
    let bound = bounds::linear(Format::Q4_0, COLS).times(8.0);
    let bound = bound.plus(bounds::attention(DIMS[0], 40, KV_FORMATS[0], KV_FORMATS[1]));
    let mut random = Random::new(SEED);
    let mut case = CaseBuilder::new(&mut random, format!("qkv {formats:?}"), bound);
    let norm = |case: &mut CaseBuilder<'_>, len| case.weight(|random| harness::norm_weight(random, len));
    let x_norm = Some(Norm { weight: norm(&mut case, COLS), eps: 1e-5 });
    let [q_norm, k_norm] = [(); 2].map(|()| Norm { weight: norm(&mut case, DIMS[0]), eps: 1e-6 });
    let x = case.input("x", COLS, 1.0);
    let heads = [(N_HEADS, DIMS[0]), (N_KV_HEADS, DIMS[0]), (N_KV_HEADS, DIMS[1])];
    let [q, k, v] = heads.map(|(n, dim)| case.buffer("head", n * dim));
    let projections: Vec<_> = [q, k, v]
        .into_iter()
        .zip(heads)
        .zip(formats)
        .map(|((out, (n, dim)), format)| {
            let weight = case.weight(|random| harness::matrix(random, "w", format, n * dim, COLS));
            let bias = Some(case.weight(|random| harness::bias(random, n * dim)));
            Projection { weight, bias, out }
        })
        .collect();
    if is_fused {
        case.push(NormLinear { x, norm: x_norm, projections });
    } else {
        // One after the other, they are not the maps of what stores them.
        projections.into_iter().for_each(|projection| {
            case.push(NormLinear { x, norm: x_norm, projections: vec![projection] });
        });
    }
    let inv_freq: Arc<[f32]> = (0..16u8).map(|i| 0.7_f32.powi(i.into())).collect();
    let rope = Some(Rope { pairs: RopePairs::Halves, inv_freq, magnitude: 1.1 });
    let qk_norm = Some(QkNorm { q: q_norm, k: k_norm });
    let layer = CacheLayerId(0);
    case.push(RopeStore { q, k, v, n_heads: N_HEADS, qk_norm, rope, cache: layer });
    let out = case.buffer("out", N_HEADS * DIMS[1]);
    let scale = 0.15;
    case.push(PagedAttention { q, cache: layer, n_heads: N_HEADS, scale, softcap: None, out });
    let runs = runs.iter().map(|sequences| harness::inputs(&cache, sequences)).collect();
    case.build(cache, runs, vec![out])
}

const FORMATS: [[Format; 3]; 2] =
    [[Format::Q4_K, Format::Q4_K, Format::Q6_K], [Format::F16, Format::Q8_0, Format::F16]];

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn queries_keys_and_values_of_any_formats_are_stored() {
    let runs: [&[(u32, u32)]; 3] = [&[(7, 7), (1, 1)], &[(1, 8), (4, 5)], &[(1, 9), (1, 6)]];
    for formats in FORMATS {
        let case = case(formats, true, &runs);
        match case.check(&mut emulator(), SEED) {
            Ok(Outcome::Within(_)) => {}
            Ok(Outcome::Absent(reason)) => panic!("{}: {reason}", case.name),
            Err(e) => panic!("{e}"),
        }
    }
}

/// One launch for maps of one format and what stores them does what several do, to the bit.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn one_launch_does_what_several_do() {
    let runs: [&[(u32, u32)]; 2] = [&[(1, 1); 3], &[(1, 2); 3]];
    for formats in FORMATS {
        let results = [true, false].map(|is_fused| {
            let (case, mut metal) = (case(formats, is_fused, &runs), emulator());
            let results = case.run_on(&mut metal, SEED).unwrap();
            (results, metal.runtime().launches())
        });
        let [(fused, few), (several, many)] = results;
        assert_eq!(fused, several, "{formats:?}");
        assert!(few < many, "{few} launches, {many} apart");
    }
}
