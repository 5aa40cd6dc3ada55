//! Prompts multiplied by what stands for the framework's own library.

use backend::gpu::PromptMaps::{Fastest, Kernels, Library};
use backend::harness::{self, Case, ModelShape, Random};
use backend::{Backend as _, GroupConfig};
use gguf::Format;
use metal_emulator::MetalEmulator;

use super::{SEED, emulator_with, prompts};

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn every_case_is_within_bounds_by_a_library() {
    let report = harness::check_all(&mut emulator_with(Library), SEED);
    println!("by a library: {report}");
    assert!(report.is_good(), "{}", report.failures.join("\n"));
}

/// As far as the library's own sums do: this one's do.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn a_prompts_row_is_the_same_in_any_chunk() {
    for format in [Format::BF16, Format::Q4_0, Format::Q6_K, Format::MXFP4] {
        prompts::check_chunks(|| emulator_with(Library), format);
    }
}

/// The logits of a prompt behind a sequence's generated row.
fn logits(case: &Case, mut metal: MetalEmulator) -> Vec<f32> {
    let mut logits = Vec::new();
    metal.load(case.weights.clone()).unwrap();
    metal.create_cache(&case.cache).unwrap();
    let id = metal.lower(&case.step, case.bucket()).unwrap();
    for inputs in &case.runs {
        metal.run(id, inputs).unwrap();
        metal.read(id, case.compare[0], &mut logits).unwrap();
    }
    logits
}

/// Which of both is chosen is no matter here, but that it is one of them, for all of a model.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn the_faster_is_measured_and_taken() {
    let group = GroupConfig { n_pages: 64, page_size: 4, window: None };
    let mut case = ModelShape::TINY.case(&mut Random::new(SEED), Format::Q4_0, vec![group]);
    case.runs = [vec![(3, 3)], vec![(1, 4), (9, 9)]].map(|run| harness::inputs(&case.cache, &run)).to_vec();
    let [kernels, library, fastest] =
        [Kernels, Library, Fastest].map(|maps| logits(&case, emulator_with(maps)));
    assert_ne!(kernels, library, "halves are not floats");
    assert!(fastest == kernels || fastest == library);
}
