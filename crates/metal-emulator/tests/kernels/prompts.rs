//! Kernels of prompt rows: their bits, the forms they are compiled in, and the matrices they multiply.

use backend::gpu::Runtime as _;
use backend::gpu::source::{Dialect, SOURCES};
use backend::harness::{self, Case, ModelShape, Outcome, Random};
use backend::{Backend as _, GroupConfig, StepInputs, TokenInputs};
use gguf::Format;
use metal_emulator::{Emulator, MetalEmulator};

use super::{SEED, emulator, one_group, toolchain};

/// Rows of the prompt whose bits are compared: more than a threadgroup takes.
const ROWS: u32 = 70;

/// Tokens of some positions.
fn ids(positions: &[u32]) -> Vec<u32> {
    positions.iter().map(|position| position * 7 % 33).collect()
}

/// Two layers, of all positions and of the last forty.
fn model(format: Format) -> Case {
    let shape = ModelShape { n_layers: 2, n_embd: 256, n_ff: 256, n_vocab: 33, ..ModelShape::TINY };
    let shape = ModelShape { n_heads: 4, n_kv_heads: 2, head_dim: 64, ..shape };
    let groups = [None, Some(40)].map(|window| GroupConfig { n_pages: 64, page_size: 4, window });
    shape.case(&mut Random::new(SEED), format, groups.into())
}

/// Logits of all rows of a run of `n_rows` that ends at `n_context`, behind `before` rows of another sequence.
fn run(case: &Case, before: u32, n_rows: u32, n_context: u32) -> StepInputs {
    let mut inputs = harness::inputs(&case.cache, &[(before, before), (n_rows, n_context)]);
    inputs.tokens = TokenInputs::Ids(ids(&inputs.positions));
    inputs.outputs = (before..before + n_rows).collect();
    inputs
}

/// The bits of the logits of all rows of a prompt, by runs of `run`'s arguments.
fn logits(mut metal: MetalEmulator, format: Format, chunks: &[(u32, u32, u32)]) -> Vec<u32> {
    let mut case = model(format);
    case.runs = chunks.iter().map(|&(before, n_rows, end)| run(&case, before, n_rows, end)).collect();
    metal.load(case.weights.clone()).unwrap();
    metal.create_cache(&case.cache).unwrap();
    let id = metal.lower(&case.step, case.bucket()).unwrap();
    let (mut all, mut some) = (Vec::new(), Vec::new());
    for inputs in &case.runs {
        metal.run(id, inputs).unwrap();
        metal.read(id, case.compare[0], &mut some).unwrap();
        all.extend(some.iter().map(|logit| logit.to_bits()));
    }
    all
}

/// Alone and in chunks beside other rows, where a row's place in its tiles is another.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn a_prompts_row_is_the_same_in_any_chunk() {
    use Format::{BF16, F16, MXFP4, Q2_K, Q4_0, Q5_K, Q6_K};
    for format in [BF16, F16, Q4_0, Q2_K, Q5_K, Q6_K, MXFP4] {
        check_chunks(emulator, format);
    }
}

/// Panics if a row's bits are others in chunks.
pub(super) fn check_chunks(emulator: impl Fn() -> MetalEmulator, format: Format) {
    let whole = logits(emulator(), format, &[(2, ROWS, ROWS)]);
    assert!(whole.iter().all(|&bits| f32::from_bits(bits).is_finite()));
    let chunks = logits(emulator(), format, &[(11, 33, 33), (5, 34, 67), (2, 3, ROWS)]);
    let different = whole.iter().zip(&chunks).position(|(a, b)| a != b);
    assert_eq!(different.map(|i| i / 33), None, "{format}: a row is another in chunks");
    assert_eq!(whole.len(), chunks.len());
}

/// As an older compiler takes them, which has no bfloat, and for heads of 64 alone.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn other_definitions_compute_the_same() {
    const DEFINITIONS: &str =
        "#undef __METAL_VERSION__\n#define __METAL_VERSION__ 300\n#define ATTENTION_DIM 64\n";
    const NAMES: [&str; 5] =
        ["matrix_attention", "rope_store", "simd_maps", "simd_prompts", "split_attention"];
    let sources = SOURCES.iter().filter(|source| NAMES.contains(&source.name));
    let texts: Vec<_> =
        sources.map(|source| (source.name, source.text(Dialect::Metal, DEFINITIONS))).collect();
    let mut toolchain = toolchain();
    toolchain.dir.push("older");
    let library = toolchain.build("older", &texts).unwrap_or_else(|e| panic!("{e}"));
    let mut metal = MetalEmulator::new(Emulator::load(&library, SEED).unwrap_or_else(|e| panic!("{e}")));
    let wanted = |case: &Case| {
        let dims = |layer: &backend::CacheLayerConfig| layer.k_dim.max(layer.v_dim) <= 64;
        let attends = case.name.starts_with("paged_attention") && case.cache.layers.iter().all(dims);
        attends || case.name.starts_with("norm_linear BF16")
    };
    let mut within = 0;
    for case in harness::cases(SEED).iter().filter(|case| wanted(case)) {
        match case.check(&mut metal, SEED) {
            Ok(Outcome::Within(_)) => within += 1,
            Ok(Outcome::Absent(reason)) => panic!("{}: {reason}", case.name),
            Err(e) => panic!("{e}"),
        }
    }
    assert!(within >= 10, "{within} cases ran");
}

/// Multiplies two matrices that lie in larger ones, `x = a * b^T`; what follows are mistakes.
const MATRICES: &str = "#include <metal_stdlib>\nusing namespace metal;\n\
    kernel void multiply(device float *x [[buffer(1)]]) {\n\
    simdgroup_float8x8 a, b, sums = make_filled_simdgroup_matrix<float, 8>(1.0f);\n\
    simdgroup_load(a, x, 16, ulong2(8, 1));\n\
    simdgroup_load(b, x, 16, ulong2(0), true);\n\
    simdgroup_multiply_accumulate(sums, a, b, sums);\n\
    simdgroup_store(sums, x + 256, 9);\n\
    }\n\
    kernel void diverge(device float *x [[buffer(1)]], uint lane [[thread_index_in_simdgroup]]) {\n\
    simdgroup_float8x8 a;\n\
    if (lane != 5) simdgroup_load(a, x, 8);\n\
    }\n\
    kernel void disagree(device float *x [[buffer(1)]], uint lane [[thread_index_in_simdgroup]]) {\n\
    simdgroup_float8x8 a;\n\
    simdgroup_load(a, x + lane, 8);\n\
    }\n\
    kernel void hurry(device float *x [[buffer(1)]], uint lane [[thread_index_in_simdgroup]]) {\n\
    threadgroup float tile[64];\n\
    tile[lane] = x[lane];\n\
    tile[lane + 32] = x[lane + 32];\n\
    simdgroup_float8x8 a;\n\
    simdgroup_load(a, tile, 8);\n\
    simdgroup_store(a, x + 256, 8);\n\
    }\n";

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn matrices_are_multiplied_and_mistakes_with_them_caught() {
    let toolchain = toolchain();
    toolchain.check("matrices", MATRICES).unwrap_or_else(|e| panic!("{e}"));
    let mixed = MATRICES.replace("simdgroup_float8x8 a, b,", "simdgroup_bfloat8x8 a; simdgroup_float8x8 b,");
    assert!(toolchain.check("mixed", &mixed).is_err(), "bfloat with float");
    let library = toolchain.build("matrices", &[("matrices", MATRICES.to_owned())]);
    let mut emulator = Emulator::load(&library.unwrap_or_else(|e| panic!("{e}")), SEED).unwrap();
    let buffer = emulator.allocate("x", 512 * 4).unwrap();
    let x: Vec<f32> = (0..=255u8).map(|i| f32::from(i.wrapping_mul(37) % 19) - 9.0).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    emulator.upload(&buffer, 0, &bytes).unwrap();
    let mut launch = |name| {
        let kernel = emulator.kernel(SOURCES[0], "", name, 0).unwrap();
        let ran = emulator.launch(&kernel, one_group(32), &[], &[(&buffer, 0)]);
        let mut out = [0; 256 * 4];
        let ran = ran.and_then(|()| emulator.download(&buffer, 256 * 4, &mut out));
        let out: Vec<f32> = out.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        ran.map(|()| out).map_err(|e| e.to_string())
    };
    let out = launch("multiply").unwrap();
    for (row, col) in (0..8).flat_map(|row| (0..8).map(move |col| (row, col))) {
        let sum: f32 = (0..8).map(|i| x[(row + 1) * 16 + 8 + i] * x[col * 16 + i]).sum();
        assert_eq!(out[row * 9 + col], sum + 1.0, "{row}, {col}");
    }
    for name in ["diverge", "disagree"] {
        let error = launch(name).unwrap_err();
        assert!(error.contains("different matrices"), "{name}: {error}");
    }
    assert!(launch("hurry").unwrap().iter().any(|x| x.is_nan()), "lanes were not waited for");
}
