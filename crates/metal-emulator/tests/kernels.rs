//! The Metal kernels are checked, compiled and run through every case of the
//! harness: `cargo xtask kernels` brings the compiler and runs this.

use std::path::PathBuf;

use backend::gpu::source::{Dialect, SOURCES};
use backend::gpu::{Runtime, Shape};
use backend::harness::{self, Outcome};
use metal_emulator::{Emulator, MetalEmulator, Toolchain};

const SEED: u64 = 2026;

/// The compilers that `cargo xtask kernels` names.
fn toolchain() -> Toolchain {
    let words = |variable, default: &str| {
        let command = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
        command.split_whitespace().map(str::to_owned).collect()
    };
    Toolchain {
        clang: words("QUARREL_TEST_CLANG", "clang"),
        linker: words("QUARREL_TEST_CLANGXX", "clang++"),
        dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("metal"),
    }
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn every_kernel_runs_every_case() {
    let toolchain = toolchain();
    let sources = SOURCES.iter().filter(|source| source.has(Dialect::Metal));
    let texts: Vec<_> = sources.map(|source| (source.name, source.text(Dialect::Metal, ""))).collect();
    for (name, text) in &texts {
        toolchain.check(name, text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let library = toolchain.build("kernels", &texts).unwrap_or_else(|e| panic!("{e}"));
    let mut metal = MetalEmulator::new(Emulator::load(&library, SEED).unwrap_or_else(|e| panic!("{e}")));
    let (mut within, mut absent, mut failures) = (0, 0, Vec::new());
    for case in harness::cases(SEED) {
        match case.check(&mut metal, SEED) {
            Ok(Outcome::Within(_)) => within += 1,
            Ok(Outcome::Absent(_)) => absent += 1,
            Err(e) => failures.push(e),
        }
    }
    println!("{within} cases within bounds, {absent} absent, {} failed", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(within > 0, "no case ran");
}

/// Kernels with one mistake each, and what is said of it.
const MISTAKES: [(&str, &str, &str); 2] = [
    (
        "divergent_barrier",
        "if (i < 40) threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = i;",
        "diverged",
    ),
    ("too_much_memory", "threadgroup float big[8193];\nbig[i] = x[i]; x[i] = big[i];", "threadgroup memory"),
];

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn mistakes_are_caught() {
    let toolchain = toolchain();
    let refused = |text: &str| toolchain.check("mistake", text).is_err();
    let prelude = "#include <metal_stdlib>\nusing namespace metal;\n";
    let sum = |parameter: &str| {
        format!(
            "{prelude}static inline float f({parameter}float *x) {{ return *x; }}\n\
         kernel void k(device float *x [[buffer(1)]]) {{ *x = f(x); }}\n"
        )
    };
    assert!(!refused(&sum("device ")), "a right kernel passes");
    assert!(refused(&sum("")), "a pointer without address space");
    assert!(refused(&sum("threadgroup ")), "a pointer of another address space");

    let kernel = |(name, body, _): (&str, &str, &str)| {
        format!(
            "kernel void {name}(device float *x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {{\n{body}\n}}\n"
        )
    };
    let text = prelude.to_owned() + &MISTAKES.map(kernel).concat();
    let library = toolchain.build("mistakes", &[("mistakes", text)]).unwrap_or_else(|e| panic!("{e}"));
    let mut emulator = Emulator::load(&library, SEED).unwrap_or_else(|e| panic!("{e}"));
    let buffer = emulator.allocate("x", 64 * 4).unwrap();
    for (name, _, message) in MISTAKES {
        let kernel = emulator.kernel(SOURCES[0], "", name, 0).unwrap();
        let shape = Shape { groups: (1, 1), threads: 64, shared: 0, early: false };
        let error = emulator.launch(&kernel, shape, &[], &[(&buffer, 0)]).unwrap_err().to_string();
        assert!(error.contains(message), "{name}: {error}");
    }
}
