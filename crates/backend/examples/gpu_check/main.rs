//! Runs the op cases and whole layers on a CUDA device, compares them with the
//! reference and the CPU, and times maps and whole steps.
//!
//! `gpu_check [cases [FILTER] | layers | invariance [SHAPE] | engines | bench [matvec | decode [ROWS [FORMAT [CONTEXT [KV]]]] | prefill [FORMAT] | mixed [ROWS] | experts | choose]] [--nvrtc PATH] [--kernels DIR]
//! [--bf16] [--as CAPABILITY]`; without a part, all parts. `--bf16`: generated rows are multiplied as bfloat16. `--as 89`: with
//! the kernels and the memory of compute capability 8.9. Exit status 1 when anything is off.

mod bench;
mod choosing;
mod engines;
mod invariance;
mod layers;
mod roles;

use std::process::ExitCode;
use std::time::Instant;

use quarrel_backend::cuda::{Cuda, CudaOptions, StandIn};
use quarrel_backend::gpu::Activations;
use quarrel_backend::harness::{self, Outcome};
use quarrel_backend::{Backend, Error};

const SEED: u64 = 2026;

type Done = Result<(), String>;

fn main() -> ExitCode {
    let (mut options, mut words) = (CudaOptions::default(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bf16" => options.activations = Some(Activations::Bf16),
            "--nvrtc" => options.nvrtc = args.next().map(Into::into),
            "--as" => {
                options.stand_in = args.next().and_then(|arch| arch.parse().ok()).and_then(StandIn::of);
                if options.stand_in.is_none() {
                    eprintln!("error: --as takes a compute capability, as in 89");
                    return ExitCode::FAILURE;
                }
            }
            "--kernels" => options.kernel_cache = args.next().map(Into::into),
            _ => words.push(arg),
        }
    }
    let part = words.first().map(String::as_str);
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    let mut cuda = match Cuda::open(&options) {
        Ok(cuda) => cuda,
        Err(e) => {
            eprintln!("error: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", cuda.description());
    let mut failed = false;
    let mut report = |name: &str, done: Done| {
        if let Err(e) = done {
            failed = true;
            println!("FAILED {name}: {e}");
        }
    };
    if wanted("cases") {
        report("cases", cases(&mut cuda, words.get(1).map(String::as_str)));
    }
    if wanted("layers") {
        report("layers", layers::compare(&mut cuda));
    }
    if wanted("invariance") {
        report("invariance", invariance::check(&mut cuda, words.get(1).map(String::as_str)));
    }
    if wanted("bench") {
        report("bench", bench::run(&mut cuda, words.get(1..).unwrap_or_default()));
    }
    if wanted("engines") {
        // This one would be another.
        drop(cuda);
        report("engines", engines::check(&options));
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Every case of the harness, or those whose name holds `filter`.
fn cases(cuda: &mut Cuda, filter: Option<&str>) -> Done {
    let start = Instant::now();
    let (mut within, mut absent, mut failures) = (0, Vec::new(), Vec::new());
    for case in harness::cases(SEED).iter().filter(|case| filter.is_none_or(|f| case.name.contains(f))) {
        match case.check(cuda, SEED) {
            Ok(Outcome::Within(worst)) => {
                within += 1;
                if filter.is_some() {
                    println!("ok     {}: off by {worst:?}, allowed {:?}", case.name, case.bound);
                }
            }
            Ok(Outcome::Absent(reason)) => absent.push(format!("{}: {reason}", case.name)),
            Err(e) => failures.push(e),
        }
    }
    for case in harness::choices(SEED).iter().filter(|case| filter.is_none_or(|f| case.name.contains(f))) {
        match harness::check_choices(case, cuda, SEED) {
            Ok(()) => {
                within += 1;
                if filter.is_some() {
                    println!("ok     {}: to the bit", case.name);
                }
            }
            Err(e) => failures.push(e),
        }
    }
    println!(
        "cases: {within} within bounds, {} absent, {} failed, in {:.1?}",
        absent.len(),
        failures.len(),
        start.elapsed()
    );
    if filter.is_some() {
        absent.iter().for_each(|line| println!("absent {line}"));
    }
    if let (Some(filter), 0) = (filter, within + absent.len() + failures.len()) {
        return Err(format!("there is no case with `{filter}` in its name"));
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

fn text(e: Error) -> String {
    e.to_string()
}
