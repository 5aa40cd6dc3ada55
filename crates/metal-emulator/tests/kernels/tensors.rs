//! Prompts multiplied by tensor operations, and mistakes planted in kernels that use them.

use backend::gpu::PromptMaps::By;
use backend::gpu::source::SOURCES;
use backend::gpu::{Multiplier, Runtime as _};
use backend::harness;
use gguf::Format;
use metal_emulator::{Compiled, Emulator};

use super::{SEED, emulator_with, one_group, prompts, toolchain};

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn every_case_is_within_bounds_by_tensor_operations() {
    let report = harness::check_all(&mut emulator_with(By(Multiplier::Tensors)), SEED);
    println!("by tensor operations: {report}");
    assert!(report.is_good(), "{}", report.failures.join("\n"));
}

/// As far as Apple's own sums do: the stand-in's do.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn a_prompts_row_is_the_same_in_any_chunk() {
    for format in [Format::BF16, Format::F16, Format::Q4_0, Format::Q6_K, Format::MXFP4] {
        prompts::check_chunks(|| emulator_with(By(Multiplier::Tensors)), format);
    }
}

/// Threads of a launch, two SIMD-groups; rows, columns and outputs of its product.
const THREADS: usize = 64;
const ROWS: usize = 32;
const COLS: usize = 8;
const OUTS: usize = 16;
/// Tiles that it adds up.
const STEPS: usize = 3;

/// A product of `STEPS` pairs of tiles, `x` of floats and `w` of halves, all from `x` on, as `@` marks and
/// mistakes replace pieces of it.
const PRODUCT: &str = "#include <metal_stdlib>\n#include <metal_tensor>\n\
    #include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>\nusing namespace metal;\n\
    typedef tensor<threadgroup float, dextents<int, 2>, tensor_inline> X;\n\
    typedef tensor<threadgroup half, dextents<int, 2>, tensor_inline> W;\n\
    kernel void product(device float *x [[buffer(1)]], uint i [[thread_index_in_threadgroup]]) {\n\
    threadgroup float memory[512];\n\
    threadgroup half *halves = (threadgroup half *)(memory + 256);\n\
    X x_tile(memory, dextents<int, 2>(8, 32));\n\
    W w_tile(halves, dextents<int, 2>(8, 16));\n\
    constexpr auto sizes = mpp::tensor_ops::matmul2d_descriptor(\n\
        32, 16, 8, false, true, false, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);\n\
    mpp::tensor_ops::matmul2d<sizes, execution_simdgroups<2>> multiply;\n\
    auto sums = multiply.get_destination_cooperative_tensor<X, W, float>();\n\
    for (ushort k = 0; k < sums.get_capacity(); k++) {\n\
    if (sums.is_valid_element(k)) sums[k] = 0;\n\
    }\n\
    for (uint step = 0; step < 3; step++) {\n\
    threadgroup_barrier(mem_flags::mem_threadgroup);\n\
    for (uint k = i; k < 256; k += 64) memory[k] = x[step * 384 + k];\n\
    for (uint k = i; k < 128; k += 64) halves[k] = half(x[step * 384 + 256 + k]);\n\
    threadgroup_barrier(mem_flags::mem_threadgroup); // filled\n\
    multiply.run(x_tile, w_tile, sums);\n\
    }\n\
    threadgroup_barrier(mem_flags::mem_threadgroup); // multiplied\n\
    tensor<threadgroup float, dextents<int, 2>, tensor_inline> results(memory, dextents<int, 2>(16, 32));\n\
    sums.store(results);\n\
    threadgroup_barrier(mem_flags::mem_threadgroup); // stored\n\
    for (uint k = i; k < 512; k += 64) x[1152 + k] = memory[k];\n\
    }\n";

/// Name, what stands there, the mistake in its place, what is said of it.
type Mistake = (&'static str, &'static str, &'static str, &'static str);

/// Found as the text is checked.
const REFUSED: [Mistake; 8] = [
    ("no_header", "#include <metal_tensor>\n", "", "MetalPerformancePrimitives.h"),
    (
        "types",
        "threadgroup half, dextents",
        "threadgroup ushort, dextents",
        "of these types are not multiplied",
    ),
    ("space", "X x_tile(memory,", "X x_tile(x,", "no matching constructor"),
    ("element", "W w_tile(halves,", "W w_tile(memory,", "no matching constructor"),
    (
        "operand",
        "run(x_tile, w_tile, sums)",
        "run(x_tile, X(memory, dextents<int, 2>(8, 16)), sums)",
        "no matching",
    ),
    ("order", "run(x_tile, w_tile, sums)", "run(w_tile, x_tile, sums)", "no matching"),
    ("scope", "execution_simdgroups<2>", "uint", "a number of SIMD-groups"),
    (
        "kept_as",
        "tensor<threadgroup float, dextents<int, 2>, tensor_inline> results(memory,",
        "tensor<threadgroup half, dextents<int, 2>, tensor_inline> results(halves,",
        "stored as what it is",
    ),
];

/// Found as the kernel runs, by a message.
const STOPPED: [Mistake; 9] = [
    ("few_simdgroups", "execution_simdgroups<2>", "execution_simdgroups<1>", "SIMD-groups"),
    ("many_simdgroups", "execution_simdgroups<2>", "execution_simdgroups<4>", "SIMD-groups"),
    (
        "turned",
        "x_tile(memory, dextents<int, 2>(8, 32))",
        "x_tile(memory, dextents<int, 2>(32, 8))",
        "extents",
    ),
    (
        "long_tile",
        "w_tile(halves, dextents<int, 2>(8, 16))",
        "w_tile(halves, dextents<int, 2>(8, 32))",
        "extents",
    ),
    ("other_result", "(memory, dextents<int, 2>(16, 32))", "(memory, dextents<int, 2>(32, 16))", "extents"),
    ("some_run", "multiply.run(", "if (i < 32) multiply.run(", "different tensor operations"),
    ("some_return", "multiply.run(", "if (i == 63 && step == 2) return; multiply.run(", "diverged"),
    ("both_turned", "8, false, true, false", "8, true, true, false", "extents"),
    ("all_elements", "if (sums.is_valid_element(k)) ", "", "this thread has not"),
];

/// Found by what comes out, in one order of threads or another; of which nothing is said.
const WRONG: [Mistake; 5] = [
    ("not_begun", "sums[k] = 0;", ";", ""),
    ("not_added", "::multiply_accumulate", "::multiply", ""),
    ("not_filled", "threadgroup_barrier(mem_flags::mem_threadgroup); // filled", "", ""),
    ("not_read", "threadgroup_barrier(mem_flags::mem_threadgroup); // multiplied", "", ""),
    ("not_stored", "threadgroup_barrier(mem_flags::mem_threadgroup); // stored", "", ""),
];

fn planted((name, piece, mistake, _): Mistake) -> String {
    assert!(PRODUCT.contains(piece), "{name}: `{piece}` is not there");
    PRODUCT.replacen(piece, mistake, 1)
}

/// Whole numbers that halves have: tiles of `x` and `w` in turn.
fn operands() -> Vec<f32> {
    let n = STEPS * (ROWS + OUTS) * COLS;
    (0..n).map(|i| (i * 37 % 19) as f32 - 9.0).collect()
}

fn build(name: &str, text: &str) -> Compiled {
    let library = toolchain().build(&format!("tensors-{name}"), &[("product", text.to_owned())]);
    library.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What the product is in one order of threads, or what is said of it.
fn run(library: &Compiled, seed: u64) -> Result<Vec<f32>, String> {
    let mut emulator = Emulator::load(library, seed).unwrap();
    let (x, n) = (operands(), ROWS * OUTS);
    let run = |emulator: &mut Emulator| -> backend::Result<Vec<f32>> {
        let buffer = emulator.allocate("x", 4 * (x.len() + n))?;
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        emulator.upload(&buffer, 0, &bytes)?;
        let kernel = emulator.kernel(SOURCES[0], "", "product", 0)?;
        emulator.launch(&kernel, one_group(THREADS as u32), &[], &[(&buffer, 0)])?;
        let mut out = vec![0; 4 * n];
        emulator.download(&buffer, 4 * x.len(), &mut out)?;
        Ok(out.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    };
    run(&mut emulator).map_err(|e| e.to_string())
}

fn expected() -> Vec<f32> {
    let operands = operands();
    let tiles = || operands.chunks((ROWS + OUTS) * COLS).map(|tile| tile.split_at(ROWS * COLS));
    let dot = |row: usize, out: usize| -> f32 {
        let of = |x: &[f32], w: &[f32]| (0..COLS).map(|k| x[row * COLS + k] * w[out * COLS + k]).sum::<f32>();
        tiles().map(|(x, w)| of(x, w)).sum()
    };
    (0..ROWS * OUTS).map(|i| dot(i / OUTS, i % OUTS)).collect()
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn tensors_are_multiplied_and_mistakes_with_them_caught() {
    let toolchain = toolchain();
    toolchain.check("product", PRODUCT).unwrap_or_else(|e| panic!("{e}"));
    for mistake in REFUSED {
        let (name, .., message) = mistake;
        let error = toolchain.check(name, &planted(mistake)).expect_err(name).to_string();
        assert!(error.contains(message), "{name}: caught, but by {error}");
        println!("{name}: caught as it is checked");
    }
    let seeds = SEED..SEED + 4;
    let right = build("right", PRODUCT);
    for seed in seeds.clone() {
        assert_eq!(run(&right, seed), Ok(expected()));
    }
    for mistake in STOPPED {
        let (name, .., message) = mistake;
        let error = run(&build(name, &planted(mistake)), SEED).expect_err(name);
        assert!(error.contains(message), "{name}: caught, but by {error}");
        println!("{name}: caught as it ran");
    }
    for mistake in WRONG {
        let library = build(mistake.0, &planted(mistake));
        let is_wrong = |seed| run(&library, seed).is_ok_and(|found| found != expected());
        assert!(seeds.clone().any(is_wrong), "{}: the result was right", mistake.0);
        println!("{}: caught by its result", mistake.0);
    }
}
