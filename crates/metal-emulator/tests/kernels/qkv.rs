//! Queries, keys and values with what stores them, of maps that have nothing in common but their rows.

use backend::KvFormat;
use backend::harness::{Heads, Outcome, Random};
use backend::kernels::rope_store::RopePairs;
use gguf::Format;

use super::{SEED, emulator};

/// Heads that are not what a SIMD-group makes at once, nor a multiple of it.
const HEADS: [Heads; 2] =
    [heads([Format::Q4_K, Format::Q4_K, Format::Q6_K]), heads([Format::F16, Format::Q8_0, Format::F16])];

const fn heads(formats: [Format; 3]) -> Heads {
    let rope = Some((RopePairs::Halves, 16));
    Heads { formats, dims: [42, 23], kv_formats: [KvFormat::Q8_0, KvFormat::F16], rope, has_norm: true }
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn queries_keys_and_values_of_any_formats_are_stored() {
    let runs: [&[(u32, u32)]; 3] = [&[(7, 7), (1, 1)], &[(1, 8), (4, 5)], &[(1, 9), (1, 6)]];
    for heads in HEADS {
        let case = heads.case(&mut Random::new(SEED), true, &runs);
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
    for heads in HEADS {
        let results = [true, false].map(|together| {
            let (case, mut metal) = (heads.case(&mut Random::new(SEED), together, &runs), emulator());
            let results = case.run_on(&mut metal, SEED).unwrap();
            (results, metal.runtime().launches())
        });
        let [(fused, few), (several, many)] = results;
        assert_eq!(fused, several, "{heads:?}");
        assert!(few < many, "{few} launches, {many} apart");
    }
}
