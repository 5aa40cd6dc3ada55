//! Repository chores. `cargo xtask --help` lists them; one module each.

mod arm;
mod ci;
mod compare;
mod dist;
mod error;
mod figures;
mod fixtures;
mod generate;
mod kernels;
mod models;
mod pgo;
mod quarrel;
mod tidy;
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
    /// Run the CPU backend's tests for 64-bit ARM, emulated by QEMU
    Arm(arm::Args),
    /// Measure speed in turn with llama.cpp, built from its Python package, and print a table
    CompareLlamaCpp(compare::Args),
    /// Build the binary of a release, with the profile of a typical load, into target/dist
    Dist(dist::Args),
    /// Write a random model of a real model's shape
    GenerateModel(generate::Args),
    /// Build `quarrel` with the profile of a typical load, and print what that gains
    Pgo(pgo::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Ci => ci::run(),
        Command::Fixtures(args) => fixtures::run(&args),
        Command::Tidy => tidy::run(),
        Command::Kernels => kernels::run_all(),
        Command::Arm(args) => arm::run(&args),
        Command::CompareLlamaCpp(args) => compare::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::GenerateModel(args) => generate::run(&args),
        Command::Pgo(args) => pgo::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
