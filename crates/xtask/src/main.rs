//! Repository chores. `cargo xtask --help` lists them; one module each.

mod error;
mod fixtures;
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
    /// Fetch what tests need from outside into target/fixtures
    Fixtures(fixtures::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Fixtures(args) => fixtures::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
