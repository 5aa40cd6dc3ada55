//! Where the workspace is, and programs run in it.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::error::{Error, Result};

/// The directory of the workspace's `Cargo.toml`, asked of cargo, so that a
/// binary built in another checkout still works on the one it is run in.
pub fn root() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["locate-project", "--workspace", "--message-format", "plain"]);
    let out = run("finding the workspace", &mut command)?;
    let manifest = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim_end());
    Ok(manifest.parent().map(PathBuf::from).unwrap_or_default())
}

/// Runs `command` to its end; an exit status other than 0 is an error that
/// quotes the last lines of its standard error.
pub fn run(what: &str, command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().map_err(|source| Error::Start { program, source })?;
    if out.status.success() {
        return Ok(out);
    }
    let stderr = String::from_utf8_lossy(&out.stderr);
    let lines: Vec<&str> = stderr.lines().collect();
    let tail = lines[lines.len().saturating_sub(15)..].join("\n");
    Err(Error::Program {
        what: what.to_owned(),
        command: format!("{command:?}"),
        status: out.status,
        stderr: tail,
    })
}
