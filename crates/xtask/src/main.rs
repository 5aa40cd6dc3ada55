//! Repository chores. `cargo xtask --help` lists them; one module each.

mod ci;
mod error;
mod fixtures;
mod kernels;
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
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Ci => ci::run(),
        Command::Fixtures(args) => fixtures::run(&args),
        Command::Tidy => tidy::run(),
        Command::Kernels => kernels::run_all(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
