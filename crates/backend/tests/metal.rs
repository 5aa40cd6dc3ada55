//! What only a Mac can say of the Metal backend; `.github/workflows/metal.yml` runs it.

use std::path::Path;
use std::process::Command;

use quarrel_backend::gpu::source::{Dialect, SOURCES};
use quarrel_backend::gpu::{Multiplier, PromptMaps};
use quarrel_backend::metal::precompiled::{MULTIPLIERS, programs};
use quarrel_backend::{Error, harness, metal};

const SEED: u64 = 2026;

/// As `metal/apple/library.rs` compiles from macOS 14 on, tensor operations from macOS 26 on.
const OPTIONS: [&str; 5] = ["-sdk", "macosx", "metal", "-fno-fast-math", "-c"];

#[test]
fn every_source_is_compiled_with_the_definitions_that_it_runs_with() {
    let programs = programs();
    for source in SOURCES.iter().filter(|source| source.has(Dialect::Metal)) {
        assert!(programs.iter().any(|(name, _)| *name == source.name), "nothing asks for {}", source.name);
    }
    let has = |wanted: &str| programs.iter().any(|(_, definitions)| definitions.contains(wanted));
    assert!(has("q4_0") && has("q6_K") | has("q6_k"), "formats are definitions: {programs:?}");
}

#[test]
#[ignore = "needs Xcode's Metal compiler"]
fn every_kernel_compiles_by_apples_compiler() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut problems = Vec::new();
    for (i, (name, definitions)) in programs().iter().enumerate() {
        let source = SOURCES.iter().find(|source| source.name == *name).expect("it was asked for");
        let file = dir.join(format!("{name}-{i}.metal"));
        std::fs::write(&file, source.text(Dialect::Metal, definitions)).unwrap();
        let mut compiler = Command::new("xcrun");
        compiler.args(OPTIONS).arg(if source.has_tensors() { "-std=metal4.0" } else { "-std=metal3.1" });
        let output = compiler.arg(&file).arg("-o").arg(file.with_extension("air")).output();
        let output = output.expect("xcrun is part of Xcode");
        if !output.status.success() {
            problems.push(format!("{name}, {definitions}:\n{}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
#[ignore = "needs an Apple GPU"]
fn every_case_is_within_bounds_on_this_gpu() {
    for multiplier in MULTIPLIERS {
        let prompt_maps = PromptMaps::By(multiplier);
        let options = metal::MetalOptions { prompt_maps, ..metal::MetalOptions::default() };
        let mut gpu = match metal::open(&options) {
            // Not every Mac has all.
            Err(Error::Unavailable { reason, .. }) if multiplier != Multiplier::Kernels => {
                println!("not by {multiplier:?}: {reason}");
                continue;
            }
            gpu => gpu.unwrap_or_else(|e| panic!("{e}")),
        };
        println!("{}, prompts by {multiplier:?}", gpu.description());
        let report = harness::check_all(gpu.as_mut(), SEED);
        println!("{report}");
        assert!(report.is_good(), "{}", report.failures.join("\n"));
    }
}
