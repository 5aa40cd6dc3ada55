//! `cargo xtask clients`: what people's programs use, unchanged, against our server.
//!
//! The scripts are beside the server's tests; each client comes from the
//! package index, in the version that `requirements.txt` there names.

use std::process::Command;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::quarrel::Quarrel;
use crate::serving::Server;
use crate::{fixtures, models, workspace};

/// Where the scripts are.
const SCRIPTS: &str = "crates/server/tests/clients";

/// The clients: each has a script `with_NAME.py`.
const CLIENTS: [&str; 6] = ["openai", "anthropic", "ollama", "litellm", "langchain_openai", "llm"];

/// A fixture whose chat template knows tools; the default model's stands in where it was not fetched.
const TOOL_MODEL: &str = "qwen2.5-coder-0.5b";

/// What the server is asked for; it takes no other.
const KEY: &str = "key-of-the-clients";

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Only these clients, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(CLIENTS))]
    only: Vec<String>,
}

/// A check as its script tells of it, a line of JSON each.
#[derive(Deserialize)]
struct Checked {
    name: String,
    seconds: f64,
    /// The trace, if it failed.
    failure: Option<String>,
}

/// Starts a server and runs the scripts.
///
/// # Errors
/// What cannot be built or installed, and any check that fails.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    let scripts = root.join(SCRIPTS);
    let python = fixtures::environment("clients", &scripts.join("requirements.txt"))?;
    let fixtures = fixtures::fetch(&[models::SMOLLM2])?;
    let small = fixtures.join(models::SMOLLM2).display().to_string();
    let tools = fixtures.join(format!("{TOOL_MODEL}.gguf"));
    let mut served = vec![format!("{small}=smollm2-135m"), format!("{small}=text-embedding-3-small")];
    if tools.exists() {
        served.push(format!("{}={TOOL_MODEL}", tools.display()));
    }
    let options: Vec<&str> = served.iter().flat_map(|model| ["--model", model]).collect();
    let mut server = Server::ours(&root, "clients", &Quarrel::dev(&root)?, &options, Some(KEY))?;
    let mut failed = Vec::new();
    let mut passed = 0;
    for client in
        CLIENTS.iter().filter(|client| args.only.is_empty() || args.only.iter().any(|o| o == *client))
    {
        let mut command = Command::new(&python);
        command.arg(scripts.join(format!("with_{client}.py"))).env("NO_PROXY", "127.0.0.1");
        command.env("QUARREL_URL", &server.url).env("QUARREL_KEY", KEY).env("QUARREL_MODEL", "smollm2-135m");
        if tools.exists() {
            command.env("QUARREL_TOOL_MODEL", TOOL_MODEL);
        }
        for check in checks(&mut command, client)? {
            let word = if check.failure.is_some() { "FAILED" } else { "ok" };
            println!("{word:6} {client:16} {:28} {:5.1} s", check.name, check.seconds);
            match check.failure {
                Some(trace) => {
                    println!("{trace}");
                    failed.push(format!("{client}: {}", check.name));
                }
                None => passed += 1,
            }
        }
    }
    println!("{passed} checks passed, {} failed", failed.len());
    if !server.lives() {
        return Err(server.failure());
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::Missed(failed)) }
}

/// Runs a script and reads what it says; other lines than ours are the client's.
fn checks(command: &mut Command, client: &str) -> Result<Vec<Checked>> {
    let out = command.output().map_err(|source| Error::Start { program: client.to_owned(), source })?;
    let text = String::from_utf8_lossy(&out.stdout);
    let checks: Vec<Checked> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let failed = checks.iter().any(|check| check.failure.is_some());
    if checks.is_empty() || failed == out.status.success() {
        let what = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(Error::Output { program: format!("with_{client}.py"), what });
    }
    Ok(checks)
}
