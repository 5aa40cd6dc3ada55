//! `quarrel`: run large language models from GGUF files.
//!
//! Parses the command line, reads the environment (nothing else does), and
//! hands over to one file per command.

mod args;
mod commands;
mod device;
mod environment;
mod interrupt;
mod loading;
mod output;
mod progress;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::dispatch(args::Cli::parse()) {
        Ok(code) => code,
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(_) if interrupt::is_set() => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            output::say(&format!("error: {}", output::explain(&error)));
            ExitCode::FAILURE
        }
    }
}
