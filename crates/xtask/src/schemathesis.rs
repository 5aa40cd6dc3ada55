//! `cargo xtask schemathesis`: requests made of our own OpenAPI document, by a
//! program that means harm. Whatever it sends, there may be no 5xx and no hang.

use std::process::Command;

use crate::error::Result;
use crate::quarrel::Quarrel;
use crate::serving::Server;
use crate::{fixtures, models, workspace};

/// Where its version is named.
const REQUIREMENTS: &str = "crates/server/tests/schemathesis/requirements.txt";

/// Longest time of one answer, in seconds. The server's context is short, so
/// that no honest one comes near it.
const HANG: &str = "60";

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// How long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// What it sends follows from this
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u32,
}

/// Starts a server and the program.
///
/// # Errors
/// What cannot be installed, and whatever the program finds.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    let python = fixtures::environment("schemathesis", &root.join(REQUIREMENTS))?;
    let model = fixtures::fetch(&[models::SMOLLM2])?.join(models::SMOLLM2);
    let model = format!("{}=m", model.display());
    let options = ["--model", &model, "--ctx", "256"];
    let mut server = Server::ours(&root, "schemathesis", &Quarrel::dev(&root)?, &options, None)?;
    let mut command = Command::new(python);
    command.current_dir(root.join("target")).env("NO_PROXY", "127.0.0.1");
    // As a module: a script would remember the path of its environment.
    command.args(["-m", "schemathesis.cli", "run"]).arg(format!("{}/openapi.json", server.url));
    command.args(["--checks", "not_a_server_error", "--request-timeout", HANG, "--continue-on-failure"]);
    command.args(["--max-time", &args.seconds.to_string(), "--seed", &args.seed.to_string()]);
    // Pulling reaches out to the network; what it refuses is in the server's tests.
    // One worker: with several, the parser of Python 3.11 that it uses fails now and then.
    command.args(["--exclude-path", "/api/pull", "--warnings", "off", "--workers", "1"]);
    command.args(["--suppress-health-check", "all"]);
    workspace::watch(&mut command)?;
    if server.lives() { Ok(()) } else { Err(server.failure()) }
}
