//! Launches between two that wait run in any order: a wait that is missing is noticed.

use backend::gpu::source::SOURCES;
use backend::gpu::{Runtime, Shape};
use backend::harness::{self, Case, ModelShape, Random};
use backend::{Backend, GroupConfig};
use gguf::Format;
use metal_emulator::Emulator;

use crate::{SEED, emulator_in_order, one_group, toolchain};

/// Orders that a missing wait is looked for in.
const ORDERS: u64 = 8;

/// Launches a layer that need not wait: prompts' beside generated rows'.
const SIDE_BY_SIDE: usize = 5;

const TWO: &str = "#include <metal_stdlib>\nusing namespace metal;\n\
    kernel void add(device float *x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) { x[i] += 1; }\n\
    kernel void twice(device float *x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) { x[i] *= 2; }\n";

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn launches_that_do_not_wait_run_in_any_order() {
    let compiled = toolchain().build("waits", &[("waits", TWO.to_owned())]).unwrap_or_else(|e| panic!("{e}"));
    let run = |seed, waits| {
        let mut emulator = Emulator::load(&compiled, seed).unwrap();
        let x = emulator.allocate("x", 32 * 4).unwrap();
        for name in ["add", "twice"] {
            let kernel = emulator.kernel(SOURCES[0], "", name, 0).unwrap();
            let shape = Shape { waits, ..one_group(32) };
            emulator.launch(&kernel, shape, &[], &[(&x, 0)]).unwrap();
        }
        let mut bytes = [0; 4];
        emulator.download(&x, 0, &mut bytes).unwrap();
        f32::from_le_bytes(bytes)
    };
    let seeds = SEED..SEED + ORDERS;
    assert!(seeds.clone().all(|seed| run(seed, true) == 2.0), "one behind the other");
    let without: Vec<f32> = seeds.map(|seed| run(seed, false)).collect();
    assert!(without.contains(&2.0) && without.contains(&1.0), "{without:?}");
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn what_a_launch_writes_and_does_not_say_is_refused() {
    let compiled =
        toolchain().build("unsaid", &[("unsaid", TWO.to_owned())]).unwrap_or_else(|e| panic!("{e}"));
    let mut emulator = Emulator::load(&compiled, SEED).unwrap();
    let x = emulator.allocate("x", 32 * 4).unwrap();
    let kernel = emulator.kernel(SOURCES[0], "", "add", 0).unwrap();
    let shape = Shape { writes: 0, ..one_group(32) };
    let error = emulator.launch(&kernel, shape, &[], &[(&x, 0)]).unwrap_err().to_string();
    assert!(error.contains("it writes buffer 1"), "{error}");
}

/// A step of generated rows beside those of prompts.
fn mixed() -> Case {
    let group = GroupConfig { n_pages: 64, page_size: 4, window: None };
    let mut case = ModelShape::TINY.case(&mut Random::new(SEED), Format::Q4_0, vec![group]);
    case.runs = [[(5, 5), (4, 4)], [(1, 6), (9, 13)]].map(|run| harness::inputs(&case.cache, &run)).to_vec();
    case
}

/// The bits of the logits of the second run, its launches, and the kernels of those that waited; without
/// the `missing`th wait, if they can be had then.
fn second_run(case: &Case, seed: u64, missing: Option<usize>) -> Option<(Vec<u32>, usize, Vec<String>)> {
    let (mut metal, mut logits) = (emulator_in_order(seed), Vec::new());
    metal.load(case.weights.clone()).unwrap();
    metal.create_cache(&case.cache).unwrap();
    let id = metal.lower(&case.step, case.bucket()).unwrap();
    metal.run(id, &case.runs[0]).unwrap();
    metal.read(id, case.compare[0], &mut logits).unwrap();
    let (launches, waits) = (metal.runtime().launches(), metal.runtime().waits().len());
    if let Some(missing) = missing {
        metal.runtime().leave_out_wait(missing);
    }
    metal.run(id, &case.runs[1]).ok()?;
    metal.read(id, case.compare[0], &mut logits).ok()?;
    let bits = logits.iter().map(|logit| logit.to_bits()).collect();
    Some((bits, metal.runtime().launches() - launches, metal.runtime().waits()[waits..].to_vec()))
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn every_wait_of_a_step_is_needed() {
    let case = mixed();
    let (right, launches, waits) = second_run(&case, SEED, None).unwrap();
    println!("{launches} launches, {} of which wait", waits.len());
    // Nothing is carried in this step, contexts are one part each, and nothing is chosen.
    let not_needed = ["embed_", "merge_splits", "maxima", "choose"];
    // The first waits for the step before.
    for (missing, kernel) in waits.iter().enumerate().skip(1) {
        let mut orders = (1..=ORDERS).map(|order| second_run(&case, SEED + (order << 32), Some(missing)));
        let is_noticed = orders.any(|found| found.is_none_or(|(bits, ..)| bits != right));
        let is_needed = !not_needed.iter().any(|name| kernel.starts_with(name));
        assert_eq!(is_noticed, is_needed, "the wait before {kernel}");
    }
    assert_eq!(launches - waits.len(), SIDE_BY_SIDE * ModelShape::TINY.n_layers, "run beside another");
}
