//! The Metal kernels are checked, compiled and run through every case of the
//! harness: `cargo xtask kernels` brings the compiler and runs this.

mod barriers;
mod mistakes;
mod model;
mod products;
mod prompts;
mod qkv;
mod tensors;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ::model::{LoadOptions, ModelRunner as _, single};
use backend::gpu::source::{Dialect, SOURCES};
use backend::gpu::{PromptMaps, Shape, Work};
use backend::harness::{self, Case, ModelShape, Random, Used};
use backend::{Backend, GroupConfig, KvFormat, Role, StepInputs, Submission, TokenInputs, Wanted, Weight};
use gguf::{Bytes, Format, Mapping, ModelFile};
use metal_emulator::{Compiled, Emulator, MetalEmulator, Toolchain};

const SEED: u64 = 2026;
/// Orders of threads that cases run in.
const ORDERS: u64 = 3;
/// Of a step that generates, as `docs/metal.md` says.
const LAUNCHES_A_LAYER: usize = 6;

/// One threadgroup that waits for those before it and writes its first buffer.
fn one_group(threads: u32) -> Shape {
    Shape {
        groups: (1, 1),
        threads,
        shared: 0,
        early: false,
        second: false,
        packed: false,
        waits: true,
        writes: 1,
        work: Work::default(),
    }
}

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

/// Every kernel's text.
fn texts() -> Vec<(&'static str, String)> {
    let sources = SOURCES.iter().filter(|source| source.has(Dialect::Metal));
    sources.map(|source| (source.name, source.text(Dialect::Metal, ""))).collect()
}

/// A backend on the kernels, which are compiled once.
fn emulator() -> MetalEmulator {
    emulator_in_order(SEED)
}

/// The same with threads in another order.
fn emulator_in_order(seed: u64) -> MetalEmulator {
    MetalEmulator::new(library(seed))
}

/// The same with the rows of prompts multiplied so.
fn emulator_with(prompt_maps: PromptMaps) -> MetalEmulator {
    MetalEmulator::new(library(SEED).with_prompt_maps(prompt_maps))
}

fn library(seed: u64) -> Emulator {
    static LIBRARY: LazyLock<Compiled> =
        LazyLock::new(|| toolchain().build("kernels", &texts()).unwrap_or_else(|e| panic!("{e}")));
    Emulator::load(&LIBRARY, seed).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn every_kernel_keeps_the_rules() {
    for (name, text) in &texts() {
        toolchain().check(name, text).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn every_kernel_runs_every_case() {
    for order in 0..ORDERS {
        let report = harness::check_all(&mut emulator_in_order(SEED + order * (1 << 32)), SEED);
        println!("{report}");
        assert!(report.is_good(), "in order {order}: {}", report.failures.join("\n"));
    }
}

/// What `auto` tests when a model is loaded, for models and caches of some formats.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn the_test_at_load_is_passed() {
    use KvFormat::{F16, Fp8, Q8_0};
    let pairs = [
        (Format::Q4_0, F16, F16),
        (Format::Q6_K, Q8_0, F16),
        (Format::BF16, F16, Fp8),
        (Format::F32, F16, F16),
        (Format::MXFP4, F16, F16),
    ];
    let used = pairs.map(|(weights, keys, values)| Used { weights, keys, values });
    harness::self_test(&mut emulator(), &used, SEED).unwrap_or_else(|e| panic!("{e}"));
}

/// Steps handed over one behind the other give what they give one after the other, also
/// where the second's token is the one that the first chose.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn submitted_steps_are_those_that_run() {
    let mut metal = emulator();
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
    let step = |inputs, wanted, carried| Submission { inputs, logits, wanted, carried, rows: None };
    metal.submit(id, &step(&case.runs[0], &[Wanted::Token], &[])).unwrap();
    metal.submit(id, &step(&case.runs[1], &[Wanted::Logits], &[(0, 0)])).unwrap();
    let completed = [metal.complete().unwrap(), metal.complete().unwrap()];
    assert_eq!(completed[0].tokens, [Some(token)]);
    assert!(completed[0].logits.is_empty());
    assert_eq!((completed[1].tokens.as_slice(), &completed[1].logits), (&[None][..], &second));
    assert!(metal.complete().is_err(), "nothing is left");
}

/// Weights of a mapped file are read where they lie; a layer of one generated row takes few launches.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn mapped_weights_are_lent_and_launches_are_few() {
    let group = GroupConfig { n_pages: 64, page_size: 4, window: None };
    let mut case = ModelShape::TINY.case(&mut Random::new(SEED), Format::Q4_0, vec![group]);
    case.runs = vec![harness::inputs(&case.cache, &[(1, 1)])];
    let logits = |case: &Case| {
        let (mut metal, mut logits) = (emulator(), Vec::new());
        metal.load(case.weights.clone()).unwrap();
        metal.create_cache(&case.cache).unwrap();
        let id = metal.lower(&case.step, case.bucket()).unwrap();
        metal.run(id, &case.runs[0]).unwrap();
        metal.read(id, case.compare[0], &mut logits).unwrap();
        (logits, metal.runtime().launches())
    };
    let (copied, launches) = logits(&case);
    // Carried tokens, embedding, head, chunks' largest, choice.
    assert_eq!(launches, LAUNCHES_A_LAYER * ModelShape::TINY.n_layers + 5);

    let all: Vec<u8> = case.weights.iter().flat_map(|weight| weight.bytes().iter().copied()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), all).unwrap();
    let mapping = Mapping::open(file.path()).unwrap();
    let mut at = 0;
    for weight in &mut case.weights {
        let range = at..at + weight.bytes().len();
        at = range.end;
        let bytes = Bytes::mapped(&mapping, range).unwrap();
        *weight = Weight::new(weight.name(), weight.format(), weight.rows(), weight.cols(), bytes).unwrap();
    }
    assert_eq!(logits(&case), (copied, launches));
}

/// The default model from its mapped file, prompt in two parts and reply token by token, says what
/// llama.cpp makes of its exact weights (`greedy.txt`: prompt, reply, by how much each token was ahead).
#[test]
#[ignore = "needs clang and the default model; run by `cargo xtask kernels`"]
fn the_default_model_says_what_a_peer_says() {
    /// Five times the mean difference that exact weights leave, as in the models' own tests.
    const NEAR_TIE: f32 = 0.1;
    const REPLY: usize = 8;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let golden = root.join("crates/model/tests/data/smollm2/greedy.txt");
    let golden = std::fs::read_to_string(golden).expect("the golden is committed");
    let mut lines = golden.lines().map(|line| line.split(' '));
    let ids = |words: Option<std::str::Split<'_, char>>| -> Vec<u32> {
        words.expect("there are three lines").map(|word| word.parse().expect("an id")).collect()
    };
    let (prompt, reply) = (ids(lines.next()), ids(lines.next()));
    let ahead =
        lines.next().expect("there are three lines").map(|word| word.parse::<f32>().expect("a number"));

    let file = ModelFile::open(&root.join("target/fixtures/smollm2-135m.gguf"));
    let file = file.expect("`cargo xtask fixtures` fetches the model");
    let options =
        LoadOptions { context: Some(64), max_batch_tokens: 16, max_outputs: 1, ..LoadOptions::default() };
    let mut model = ::model::load(&file, Box::new(emulator()), &options).expect("the model loads");
    let mut run = |ids: &[u32], start: usize, role| {
        let rows = single::Rows { ids, start: start as u32, role };
        let batch = single::batch(model.groups(), &rows, vec![ids.len() as u32 - 1]);
        model.forward(&batch).expect("the batch fits");
        let logits = model.logits().expect("a batch has run");
        let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        best as u32
    };
    let (first, second) = prompt.split_at(prompt.len() / 2);
    run(first, 0, Role::Prompt);
    let mut said = run(second, first.len(), Role::Prompt);
    for (i, (&id, ahead)) in reply.iter().zip(ahead).take(REPLY).enumerate() {
        assert!(said == id || ahead < NEAR_TIE, "token {i} is {said}, not {id}, which was {ahead} ahead");
        said = run(&[id], prompt.len() + i, Role::Generated);
    }
}

/// The logits of a sequence fed token by token, beside as many others as long.
fn fed_beside(others: usize, format: Format) -> Vec<u32> {
    let shape = ModelShape { n_layers: 1, n_embd: 256, n_ff: 768, n_vocab: 33, ..ModelShape::TINY };
    let shape = ModelShape { n_heads: 8, n_kv_heads: 2, ..shape };
    let group = GroupConfig { n_pages: 64, page_size: 4, window: None };
    let mut case = shape.case(&mut Random::new(SEED), format, vec![group]);
    let run = |n_context| {
        let mut inputs = harness::inputs(&case.cache, &vec![(1, n_context); 1 + others]);
        inputs.tokens = TokenInputs::Ids((0..=others as u32).map(|i| (n_context * 7 + i) % 33).collect());
        inputs
    };
    case.runs = (1..=3).map(run).collect();
    last_logits(&case, emulator())[..33].iter().map(|logit| logit.to_bits()).collect()
}

/// What the last of a case's runs says.
fn last_logits(case: &Case, mut metal: MetalEmulator) -> Vec<f32> {
    metal.load(case.weights.clone()).unwrap();
    metal.create_cache(&case.cache).unwrap();
    let id = metal.lower(&case.step, case.bucket()).unwrap();
    for inputs in &case.runs {
        metal.run(id, inputs).unwrap();
    }
    let mut logits = Vec::new();
    metal.read(id, case.compare[0], &mut logits).unwrap();
    logits
}

/// One row, up to four and up to eight have kernels of their own.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn a_row_is_the_same_whatever_stands_beside_it() {
    use Format::{F16, MXFP4, Q3_K, Q4_0, Q4_K, Q5_1, Q6_K, Q8_0};
    for format in [F16, Q4_0, Q5_1, Q8_0, Q3_K, Q4_K, Q6_K, MXFP4] {
        let alone = fed_beside(0, format);
        assert!(alone.iter().all(|&bits| f32::from_bits(bits).is_finite()));
        for others in [1, 3, 4, 9] {
            assert_eq!(fed_beside(others, format), alone, "{format} beside {others}");
        }
    }
}
