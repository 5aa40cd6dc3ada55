//! What only a Mac can say of the Metal backend; `.github/workflows/metal.yml` runs it.

use std::path::Path;
use std::process::Command;

use quarrel_backend::gpu::source::{Dialect, SOURCES};
use quarrel_backend::harness::{self, Outcome};
use quarrel_backend::metal;

const SEED: u64 = 2026;

/// As strict as `metal/apple/library.rs` compiles.
const OPTIONS: [&str; 6] = ["-sdk", "macosx", "metal", "-std=metal3.0", "-fno-fast-math", "-c"];

#[test]
#[ignore = "needs Xcode's Metal compiler"]
fn every_kernel_compiles_by_apples_compiler() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut problems = Vec::new();
    for source in SOURCES.iter().filter(|source| source.has(Dialect::Metal)) {
        let file = dir.join(format!("{}.metal", source.name));
        std::fs::write(&file, source.text(Dialect::Metal, "")).unwrap();
        let mut compiler = Command::new("xcrun");
        let output = compiler.args(OPTIONS).arg(&file).arg("-o").arg(file.with_extension("air")).output();
        let output = output.expect("xcrun is part of Xcode");
        if !output.status.success() {
            problems.push(format!("{}:\n{}", source.name, String::from_utf8_lossy(&output.stderr)));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
#[ignore = "needs an Apple GPU"]
fn every_case_is_within_bounds_on_this_gpu() {
    let mut gpu = metal::open().unwrap_or_else(|e| panic!("{e}"));
    println!("{}", gpu.description());
    let (mut within, mut absent, mut failures) = (0, 0, Vec::new());
    for case in harness::cases(SEED) {
        match case.check(gpu.as_mut(), SEED) {
            Ok(Outcome::Within(_)) => within += 1,
            Ok(Outcome::Absent(_)) => absent += 1,
            Err(e) => failures.push(e),
        }
    }
    println!("{within} cases within bounds, {absent} absent, {} failed", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(within > 0, "no case ran");
}
