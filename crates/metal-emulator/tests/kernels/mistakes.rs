//! Planted mistakes: kernels with one each, and which of the emulator's checks catches it.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use backend::gpu::Runtime;
use backend::gpu::source::SOURCES;
use metal_emulator::{Compiled, Emulator};

use crate::{SEED, one_group, toolchain};

/// Threads and floats of every launch.
const N: usize = 64;
/// Names the mistake that a process of its own runs, since it does not survive it.
const VARIABLE: &str = "QUARREL_TEST_MISTAKE";
const RIGHT: &str = "right";

/// What catches a mistake.
enum Caught {
    /// Translating or compiling it, with this message.
    Check(&'static str),
    /// Launching it, with this message.
    Launch(&'static str),
    /// The processor, with this signal, while it runs.
    Signal(i32),
    /// Comparing with what it should have made of the numbers 1 to 64, in one order of threads or another.
    Compared(fn(usize) -> f32),
}
use Caught::{Check, Compared, Launch, Signal};

const SIGILL: i32 = 4;
const SIGSEGV: i32 = 11;

/// Name, mistake, body of the kernel, what catches it.
type Mistake = (&'static str, &'static str, &'static str, Caught);

/// Mistakes in the body of a kernel `(constant uint *args, device float *x, uint i, uint lane)`.
const BODIES: &[Mistake] = &[
    // Rules of the language.
    ("literal", "a literal that is a double in C++", "x[i] = 0.5;", Check("with an f")),
    ("double_precision", "a type that Metal has not", "double y = x[i]; x[i] = y;", Check("double")),
    ("cast", "a pointer without an address space", "x[i] = *(float *)x;", Check("no address space")),
    (
        "other_space",
        "device memory through a thread pointer",
        "thread float *y = x; x[i] = *y;",
        Check("cannot initialize"),
    ),
    (
        "argument_space",
        "threadgroup memory for a device parameter",
        "threadgroup float s[64]; x[i] = first(s);",
        Check("no matching function"),
    ),
    ("constant_write", "constant memory written to", "args[0] = i;", Check("const")),
    ("unknown_function", "a function of the C library", "x[i] = expf(x[i]);", Check("expf")),
    (
        "sizes",
        "as_type between sizes that differ",
        "x[i] = as_type<float>(ushort(i));",
        Check("sizes differ"),
    ),
    ("vector", "a component that the vector has not", "x[i] = float4(x[i]).q;", Check("q")),
    // Threads that do not meet.
    (
        "some_at_barrier",
        "a barrier for some threads",
        "if (i < 40) threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = i;",
        Launch("diverged"),
    ),
    (
        "two_barriers",
        "a barrier of its own in each branch",
        "if (i < 32) { threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = 1; } \
         else { x[i] = 2; threadgroup_barrier(mem_flags::mem_threadgroup); }",
        Launch("diverged"),
    ),
    (
        "early_return",
        "threads that return before a barrier",
        "if (i >= 48) return; threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = i;",
        Launch("have returned"),
    ),
    (
        "some_lanes",
        "a SIMD-group's sum for some lanes",
        "if (lane < 16) x[i] = simd_sum(x[i]); threadgroup_barrier(mem_flags::mem_threadgroup);",
        Launch("diverged"),
    ),
    (
        "loop_counts",
        "barriers in a loop that threads leave at different times",
        "for (uint k = 0; k < i; k++) threadgroup_barrier(mem_flags::mem_threadgroup);",
        Launch("diverged"),
    ),
    // Memory.
    (
        "too_much_memory",
        "more threadgroup memory than there is",
        "threadgroup float big[8193];\nbig[i] = x[i]; x[i] = big[i];",
        Launch("threadgroup memory"),
    ),
    ("read_past_end", "device memory read past a buffer's end", "x[i] = x[i + 1];", Signal(SIGSEGV)),
    ("write_past_end", "device memory written past a buffer's end", "x[i + args[0]] = 1;", Signal(SIGSEGV)),
    ("past_arguments", "arguments that the host did not give", "x[i] = args[4];", Signal(SIGSEGV)),
    (
        "index",
        "threadgroup memory past an array's end",
        "threadgroup float s[32];\ns[i] = x[i]; threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = s[i];",
        Signal(SIGILL),
    ),
    (
        "thread_index",
        "an array of a thread's own past its end",
        "float s[4]; for (uint k = 0; k < 4; k++) s[k] = x[i]; x[i] = s[i % 8];",
        Signal(SIGILL),
    ),
    (
        "alignment",
        "a load that is not aligned",
        "x[i] = *(device uint *)((device uchar *)x + 4 * (i / 2) + 1);",
        Signal(SIGILL),
    ),
    (
        "not_initialised",
        "threadgroup memory read that nobody wrote",
        "threadgroup float s[64];\nif (i < 32) s[i] = x[i]; threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = s[i];",
        Compared(|i| if i < 32 { i as f32 + 1.0 } else { 0.0 }),
    ),
    // Races, which one order of threads hides.
    (
        "no_barrier",
        "no barrier between writing and reading",
        "threadgroup float s[64];\ns[i] = x[i]; x[i] = s[63 - i];",
        Compared(|i| 64.0 - i as f32),
    ),
    (
        "no_second_barrier",
        "memory used again before all have read it",
        "threadgroup float s[64];\ns[i] = x[i]; threadgroup_barrier(mem_flags::mem_threadgroup); float y = s[63 - i]; s[i] = 2 * y; threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = s[i];",
        Compared(|i| 2.0 * (64.0 - i as f32)),
    ),
    (
        "no_first_barrier",
        "a sum begun before it is set to zero",
        "threadgroup float s[1];\nif (i == 0) s[0] = 0; s[0] += x[i]; threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = s[0];",
        Compared(|_| 2080.0),
    ),
    (
        "lockstep",
        "lanes taken to run in step",
        "threadgroup float s[64];\ns[i] = x[i]; x[i] = s[i ^ 1];",
        Compared(|i| (i ^ 1) as f32 + 1.0),
    ),
    (
        "last_wins",
        "the last thread taken to write last",
        "threadgroup float s[1];\ns[0] = x[i]; threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = s[0];",
        Compared(|_| 64.0),
    ),
    (
        "neighbour",
        "a neighbour's device memory read while it is written",
        "x[i] = x[i] + x[i ^ 1];",
        Compared(|i| (i + (i ^ 1)) as f32 + 2.0),
    ),
    ("width", "a SIMD-group taken to be the threadgroup", "x[i] = simd_sum(x[i]);", Compared(|_| 2080.0)),
];

/// Mistakes outside of a kernel's body: whole texts.
const TEXTS: &[(&str, &str, &str, &str)] = &[
    (
        "helper",
        "a parameter without an address space",
        "inline float f(float *x) { return *x; }",
        "no address space",
    ),
    (
        "reference",
        "a reference without an address space",
        "struct S { float a; }; inline float f(const S &s) { return s.a; }",
        "no address space",
    ),
    (
        "no_attribute",
        "a kernel's parameter without an attribute",
        "kernel void k(device float *x [[buffer(1)]], uint i) { x[i] = i; }",
        "no attribute",
    ),
    (
        "attribute",
        "an attribute that nobody knows",
        "kernel void k(uint i [[thread_position]]) {}",
        "not known",
    ),
];

/// What the mistakes have in front of them.
const PRELUDE: &str = "#include <metal_stdlib>\nusing namespace metal;\n\
                       inline float first(device float *x) { return *x; }\n";

/// What a right kernel does: a sum over the threadgroup, by way of all that is planted wrongly.
const SUM: &str = "threadgroup float s[2];\nconst float sum = simd_sum(x[i]); if (lane == 0) s[i / 32] = sum; \
                   threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = s[0] + s[1];";

fn kernel(name: &str, body: &str) -> String {
    format!(
        "kernel void {name}(constant uint *args [[buffer(0)]], device float *x [[buffer(1)]], \
         uint i [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {{\n{body}\n}}\n"
    )
}

/// What is made of 1 to 64 by a kernel with so many threads and buffers.
fn run(emulator: &mut Emulator, name: &str, threads: u32, buffers: usize) -> backend::Result<Vec<f32>> {
    let kernel = emulator.kernel(SOURCES[0], "", name, 0)?;
    let x: Vec<u8> = (1..=N as u16).flat_map(|n| f32::from(n).to_le_bytes()).collect();
    let buffer = emulator.allocate("x", x.len())?;
    emulator.upload(&buffer, 0, &x)?;
    emulator.launch(&kernel, one_group(threads), &[N as u32, 0, 0, 0], &vec![(&buffer, 0); buffers])?;
    let mut out = vec![0; x.len()];
    emulator.download(&buffer, 0, &mut out)?;
    Ok(out.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn build(library: &str, kernels: &[(&str, &str)]) -> Compiled {
    let text = kernels.iter().map(|(name, body)| kernel(name, body)).collect::<String>();
    toolchain().build(library, &[(library, PRELUDE.to_owned() + &text)]).unwrap_or_else(|e| panic!("{e}"))
}

fn load(compiled: &Compiled, seed: u64) -> Emulator {
    Emulator::load(compiled, seed).unwrap_or_else(|e| panic!("{e}"))
}

/// What checking and compiling say of a text, if anything.
fn refused(name: &str, text: &str) -> Option<String> {
    toolchain().check(name, &(PRELUDE.to_owned() + text)).err().map(|error| error.to_string())
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn mistakes_in_the_language_are_caught() {
    assert_eq!(refused(RIGHT, &kernel(RIGHT, SUM)), None, "a right kernel passes");
    let bodies = BODIES.iter().filter_map(|(name, what, body, caught)| match caught {
        Check(message) => Some((*name, *what, kernel(name, body), *message)),
        _ => None,
    });
    let texts = TEXTS.iter().map(|&(name, what, text, message)| (name, what, text.to_owned(), message));
    for (name, what, text, message) in bodies.chain(texts) {
        let error = refused(name, &text).unwrap_or_else(|| panic!("{name}: {what}: it passed"));
        assert!(error.contains(message), "{name}: {what}: caught, but by {error}");
        println!("{name}: {what}: caught as it is checked");
    }
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn mistakes_of_running_kernels_are_caught() {
    let runs = || BODIES.iter().filter(|mistake| matches!(mistake.3, Launch(_) | Compared(_)));
    let mut kernels: Vec<_> = runs().map(|(name, _, body, _)| (*name, *body)).collect();
    kernels.push((RIGHT, SUM));
    let compiled = build("mistakes", &kernels);
    let seeds = SEED..SEED + 4;
    for seed in seeds.clone() {
        let sums = run(&mut load(&compiled, seed), RIGHT, N as u32, 1);
        assert_eq!(sums.unwrap_or_else(|e| panic!("{e}")), [2080.0; N]);
    }
    for (name, what, _, caught) in runs() {
        let mut results = seeds.clone().map(|seed| run(&mut load(&compiled, seed), name, N as u32, 1));
        match caught {
            Launch(message) => {
                let error = results.next().expect("there are seeds").map_err(|e| e.to_string());
                let error = error.expect_err(&format!("{name}: {what}: it ran"));
                assert!(error.contains(message), "{name}: {what}: caught, but by {error}");
            }
            Compared(expected) => {
                let expected: Vec<f32> = (0..N).map(expected).collect();
                let is_wrong = |found: backend::Result<Vec<f32>>| found.is_ok_and(|found| found != expected);
                assert!(results.any(is_wrong), "{name}: {what}: the result was right");
            }
            Check(_) | Signal(_) => unreachable!("these were left out"),
        }
        println!("{name}: {what}: caught as it ran");
    }
}

#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn launches_that_do_not_match_their_kernel_are_caught() {
    let two = "kernel void two(constant uint *args [[buffer(0)]], device float *x [[buffer(2)]]) { x[0] = args[0]; }";
    let text = PRELUDE.to_owned() + &kernel(RIGHT, SUM) + two;
    let compiled = toolchain().build("launches", &[("launches", text)]).unwrap_or_else(|e| panic!("{e}"));
    let mut emulator = load(&compiled, SEED);
    for (what, name, threads, buffers, message) in [
        ("a buffer too few", RIGHT, 64, 0, "it declares buffers [0, 1]"),
        ("a buffer too many", RIGHT, 64, 2, "it declares buffers [0, 1]"),
        ("a buffer at another index", "two", 64, 1, "it declares buffers [0, 2]"),
        ("too many threads", RIGHT, 1025, 1, "1 to 1024 threads"),
        ("a kernel that is not there", "three", 64, 1, "not in the library"),
    ] {
        let error = run(&mut emulator, name, threads, buffers).expect_err(what).to_string();
        assert!(error.contains(message), "{what}: {error}");
        println!("{what}: caught as it was launched");
    }
}

/// What the processor catches ends the process: one is begun for each mistake, and runs this test.
#[test]
#[ignore = "needs clang; run by `cargo xtask kernels`"]
fn mistakes_that_fault_are_caught() {
    let run_one = |name: &str, body: &str| {
        let compiled = build(&format!("faults-{name}"), &[(name, body)]);
        run(&mut load(&compiled, SEED), name, N as u32, 1)
    };
    if let Ok(wanted) = std::env::var(VARIABLE) {
        let body = BODIES.iter().find(|mistake| mistake.0 == wanted).map_or(SUM, |mistake| mistake.2);
        let ran = run_one(&wanted, body).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(ran, [2080.0; N]);
        return;
    }
    let child = |name: &str| {
        let this = std::env::current_exe().expect("a test knows its program");
        let mut command = Command::new(this);
        command.args(["--ignored", "--exact", "mistakes::mistakes_that_fault_are_caught"]);
        command.env(VARIABLE, name).output().expect("the program starts").status
    };
    assert!(child(RIGHT).success(), "a right kernel runs");
    for (name, what, _, caught) in BODIES {
        let Signal(signal) = caught else { continue };
        assert_eq!(child(name).signal(), Some(*signal), "{name}: {what}");
        println!("{name}: {what}: caught by the processor");
    }
}
