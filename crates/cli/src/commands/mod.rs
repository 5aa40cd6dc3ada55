//! One file a command.

mod bench;
mod chat;
mod detokenize;
mod doctor;
mod generate;
mod inspect;
mod list;
mod perplexity;
mod pull;
mod quantize;
mod rm;
mod run;
mod serve;
mod tokenize;
mod version;

use std::process::ExitCode;

use crate::args::{Cli, Command};

/// Runs the command that was asked for.
pub fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    let Some(command) = cli.command else { return done(version::run(cli.verbose)) };
    match command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => done(chat::run(args)),
        Command::Serve(args) => done(serve::run(args)),
        Command::Inspect(args) => done(inspect::run(&args)),
        Command::Bench(args) => done(bench::run(&args)),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Quantize(args) => done(quantize::run(&args)),
        Command::Tokenize(args) => done(tokenize::run(&args)),
        Command::Detokenize(args) => done(detokenize::run(&args)),
        Command::Pull(args) => done(pull::run(&args)),
        Command::List(args) => done(list::run(&args)),
        Command::Rm(args) => done(rm::run(&args)),
        Command::Doctor(args) => done(doctor::run(&args)),
    }
}
