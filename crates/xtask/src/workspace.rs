//! Where the workspace is, and programs run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::error::{Error, Result};

/// Has the backend compiled in a half of a minute, where optimising it takes minutes and what is run is short.
pub const UNOPTIMISED_BACKEND: &str = "--config=profile.dev.package.quarrel-backend.opt-level=0";

/// The directory of the workspace's `Cargo.toml`, asked of cargo, so that a
/// binary built in another checkout still works on the one it is run in.
pub fn root() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["locate-project", "--workspace", "--message-format", "plain"]);
    let out = run("finding the workspace", &mut command)?;
    let manifest = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim_end());
    Ok(manifest.parent().map(PathBuf::from).unwrap_or_default())
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where cargo builds the workspace at `root`, whatever its user configured.
pub fn target_directory(root: &Path) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let mut command = cargo();
    command.current_dir(root).args(["metadata", "--no-deps", "--format-version", "1"]);
    let out = run("finding the target directory", &mut command)?;
    let metadata: Metadata = serde_json::from_slice(&out.stdout)
        .map_err(|e| Error::Output { program: "cargo metadata".to_owned(), what: e.to_string() })?;
    Ok(metadata.target_directory)
}

/// Runs `command` to its end, all that it prints going to standard error.
pub fn watch(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status =
        command.stdout(std::io::stderr()).status().map_err(|source| Error::Start { program, source })?;
    if status.success() { Ok(()) } else { Err(Error::Check { command: format!("{command:?}"), status }) }
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
