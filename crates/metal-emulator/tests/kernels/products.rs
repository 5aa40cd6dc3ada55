//! Prompts multiplied by what stands for the framework's own libraries.

use backend::gpu::PromptMaps::{By, Fastest};
use backend::gpu::{Library, Multiplier, PromptMaps};
use backend::harness::{self, ModelShape, Random};
use backend::{Backend as _, GroupConfig};
use gguf::Format;
use metal_emulator::{Emulator, MetalEmulator};

use super::{SEED, emulator_with, last_logits, prompts, texts, toolchain};

const LIBRARIES: [Library; 2] = [Library::Matrices, Library::Graph];

fn by(library: Library) -> PromptMaps {
    By(Multiplier::Library(library))
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn every_case_is_within_bounds_by_a_library() {
    for library in LIBRARIES {
        let report = harness::check_all(&mut emulator_with(by(library)), SEED);
        println!("by {library:?}: {report}");
        assert!(report.is_good(), "{library:?}: {}", report.failures.join("\n"));
    }
}

/// As far as the library's own sums do: this one's do.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn a_prompts_row_is_the_same_in_any_chunk() {
    for library in LIBRARIES {
        for format in [Format::BF16, Format::Q4_0, Format::Q6_K, Format::MXFP4] {
            prompts::check_chunks(|| emulator_with(by(library)), format);
        }
    }
}

/// Which of them is chosen is no matter here, but that it is one of them, for all of a model.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn the_fastest_is_measured_and_taken() {
    let group = GroupConfig { n_pages: 64, page_size: 4, window: None };
    let mut case = ModelShape::TINY.case(&mut Random::new(SEED), Format::Q4_0, vec![group]);
    case.runs = [vec![(3, 3)], vec![(1, 4), (9, 9)]].map(|run| harness::inputs(&case.cache, &run)).to_vec();
    let logits = |maps| last_logits(&case, emulator_with(maps));
    let each = [By(Multiplier::Kernels), By(Multiplier::Tensors), by(Library::Matrices), by(Library::Graph)];
    let each = each.map(logits);
    assert_ne!(each[0], each[2], "halves are not floats");
    assert!(each.contains(&logits(Fastest)));
}

/// As where Apple's compiler refuses a source: who asks for it is told, and who asks for the fastest gets another.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn the_fastest_is_none_that_does_not_work() {
    let others: Vec<_> = texts().into_iter().filter(|(name, _)| *name != "simd_tensors").collect();
    let library = toolchain().build("without-tensors", &others).unwrap_or_else(|e| panic!("{e}"));
    let emulator = |maps| {
        let emulator = Emulator::load(&library, SEED).unwrap_or_else(|e| panic!("{e}"));
        MetalEmulator::new(emulator.with_prompt_maps(maps))
    };
    let group = GroupConfig { n_pages: 64, page_size: 4, window: None };
    let mut case = ModelShape::TINY.case(&mut Random::new(SEED), Format::Q4_0, vec![group]);
    case.runs = vec![harness::inputs(&case.cache, &[(9, 9)])];
    let mut asked = emulator(By(Multiplier::Tensors));
    asked.load(case.weights.clone()).unwrap();
    asked.create_cache(&case.cache).unwrap();
    let error = asked.lower(&case.step, case.bucket()).unwrap_err().to_string();
    assert!(error.contains("simd_tensors"), "{error}");
    let logits = |maps| last_logits(&case, emulator(maps));
    let others = [By(Multiplier::Kernels), by(Library::Matrices), by(Library::Graph)].map(logits);
    assert!(others.contains(&logits(Fastest)));
}
