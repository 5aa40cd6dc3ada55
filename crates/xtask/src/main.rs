//! Repository chores. `cargo xtask --help` lists them; one module each.

mod apple;
mod arm;
mod browser;
mod ci;
mod clients;
mod compare;
mod dist;
mod error;
mod figures;
mod fixtures;
mod generate;
mod gpu;
mod kernels;
mod llama_server;
mod load;
mod models;
mod overload;
mod pgo;
mod quarrel;
mod schemathesis;
mod serve_load;
mod serving;
mod soak;
mod tidy;
mod traffic;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Repository chores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything that must hold before a change lands
    Ci,
    /// Fetch what tests need from outside into target/fixtures
    Fixtures(fixtures::Args),
    /// Check the rules of the code base that a program can check
    Tidy,
    /// Compile every GPU kernel, and run Metal's on the emulator; needs no GPU
    Kernels,
    /// Check, lint and link what must build for a Mac, and that mistakes in it are found; needs no Mac
    Apple(apple::Args),
    /// Run the CPU backend's tests for 64-bit ARM, emulated by QEMU
    Arm(arm::Args),
    /// Test the chat page in a browser
    Browser(browser::Args),
    /// Run the clients that people use, unchanged, against `quarrel serve`
    Clients(clients::Args),
    /// Measure speed in turn with llama.cpp, built from its Python package, and print a table
    CompareLlamaCpp(compare::Args),
    /// Build the binary of a release, with the profile of a typical load, into target/dist
    Dist(dist::Args),
    /// Test every op and whole models on this machine's NVIDIA GPU
    Gpu(gpu::Args),
    /// Write a random model of a real model's shape
    GenerateModel(generate::Args),
    /// Run the tests of llama.cpp's server against `quarrel serve`
    LlamaServerTests,
    /// Send `quarrel serve` ten times more at once than it takes
    Overload(overload::Args),
    /// Send `quarrel serve` whatever its OpenAPI document allows, and forbids
    Schemathesis(schemathesis::Args),
    /// Let many clients loose on `quarrel serve` for half an hour
    Soak(soak::Args),
    /// Measure `quarrel serve` beside `quarrel bench`, and what a long prompt does to its replies
    ServeLoad(serve_load::Args),
    /// Measure `quarrel serve` under load in turn with llama.cpp's server
    ServerLoad(load::Args),
    /// Build `quarrel` with the profile of a typical load, and print what that gains
    Pgo(pgo::Args),
    /// Write docs/metal-traffic.md: what Metal's kernels move and compute, on paper
    Traffic(traffic::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Ci => ci::run(),
        Command::Fixtures(args) => fixtures::run(&args),
        Command::Tidy => tidy::run(),
        Command::Kernels => kernels::run_all(),
        Command::Apple(args) => apple::run_all(&args),
        Command::Arm(args) => arm::run(&args),
        Command::Browser(args) => browser::run(&args),
        Command::Clients(args) => clients::run(&args),
        Command::CompareLlamaCpp(args) => compare::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Gpu(args) => gpu::run(&args),
        Command::GenerateModel(args) => generate::run(&args),
        Command::LlamaServerTests => llama_server::run(),
        Command::Overload(args) => overload::run(&args),
        Command::Schemathesis(args) => schemathesis::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::ServeLoad(args) => serve_load::run(&args),
        Command::ServerLoad(args) => load::run(&args),
        Command::Pgo(args) => pgo::run(&args),
        Command::Traffic(args) => traffic::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
