//! Prompts multiplied by what stands for the framework's own libraries.

use backend::GroupConfig;
use backend::gpu::PromptMaps::{By, Fastest};
use backend::gpu::{Library, Multiplier, PromptMaps};
use backend::harness::{self, ModelShape, Random};
use gguf::Format;

use super::{SEED, emulator_with, last_logits, prompts};

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
