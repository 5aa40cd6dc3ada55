//! The Metal kernels are checked, compiled and run through every case of the
//! harness: `cargo xtask kernels` brings the compiler and runs this.

use std::path::PathBuf;

use backend::gpu::source::{Dialect, SOURCES};
use backend::gpu::{Runtime, Shape};
use backend::harness::{self, ModelShape, Outcome, Random};
use backend::{Backend, GroupConfig, StepInputs, Submission, TokenInputs};
use gguf::Format;
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

/// Steps handed over one behind the other give what they give one after the other, also
/// where the second's token is the one that the first chose.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn submitted_steps_are_those_that_run() {
    let toolchain = toolchain();
    let sources = SOURCES.iter().filter(|source| source.has(Dialect::Metal));
    let texts: Vec<_> = sources.map(|source| (source.name, source.text(Dialect::Metal, ""))).collect();
    let library = toolchain.build("submitted", &texts).unwrap_or_else(|e| panic!("{e}"));
    let mut metal = MetalEmulator::new(Emulator::load(&library, SEED).unwrap_or_else(|e| panic!("{e}")));
    let group = GroupConfig { n_pages: 64, page_size: 4, window: None };
    let mut random = Random::new(SEED);
    let mut case = ModelShape::TINY.case(&mut random, Format::F32, vec![group]);
    case.runs = [(5, 5), (1, 6)].map(|run| harness::inputs(&case.cache, &[run])).to_vec();
    let logits = case.compare[0];
    metal.load(case.weights.clone()).unwrap();
    metal.create_cache(&case.cache).unwrap();
    let id = metal.lower(&case.step, case.bucket()).unwrap();
    let n_vocab = ModelShape::TINY.n_vocab;
    let argmax =
        |logits: &[f32]| (0..n_vocab).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
    let after = |metal: &mut MetalEmulator, inputs: &StepInputs| {
        let mut values = Vec::new();
        metal.run(id, inputs).unwrap();
        metal.read(id, logits, &mut values).unwrap();
        values
    };
    let first = after(&mut metal, &case.runs[0]);
    let token = argmax(&first) as u32;
    case.runs[1].tokens = TokenInputs::Ids(vec![token]);
    let second = after(&mut metal, &case.runs[1]);

    case.runs[1].tokens = TokenInputs::Ids(vec![0]);
    let step = |inputs, choose, carried| Submission { inputs, logits, choose, carried, rows: None };
    metal.submit(id, &step(&case.runs[0], &[true], &[])).unwrap();
    metal.submit(id, &step(&case.runs[1], &[false], &[(0, 0)])).unwrap();
    let completed = [metal.complete().unwrap(), metal.complete().unwrap()];
    assert_eq!(completed[0].tokens, [Some(token)]);
    assert!(completed[0].logits.is_empty());
    assert_eq!((completed[1].tokens.as_slice(), &completed[1].logits), (&[None][..], &second));
    assert!(metal.complete().is_err(), "nothing is left");
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
        let shape = Shape { groups: (1, 1), threads: 64, shared: 0, early: false, cluster: 1 };
        let error = emulator.launch(&kernel, shape, &[], &[(&buffer, 0)]).unwrap_err().to_string();
        assert!(error.contains(message), "{name}: {error}");
    }
}
