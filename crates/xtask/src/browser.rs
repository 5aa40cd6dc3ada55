//! `cargo xtask browser`: the chat page in a real browser, first in front of
//! its mock server, which can do everything on demand, then of ours.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::quarrel::Quarrel;
use crate::serving::Server;
use crate::{fixtures, models, workspace};

const SCRIPT: &str = "crates/server/web/tests/browser_test.py";

/// Names that the browser goes by.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Install the browser by apt, as root, where it is missing
    #[arg(long)]
    pub install: bool,
    /// Leave out the part before the real server, whose model decides how long replies take
    #[arg(long)]
    pub stand_in_only: bool,
}

/// Runs the page's tests twice: before a server that stands in, and before ours.
///
/// # Errors
/// No browser, and any test that fails.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    let starts = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if std::env::var_os("CHROMIUM").is_none() && !BROWSERS.into_iter().any(starts) {
        if !args.install {
            let advice = "on Debian `apt-get install chromium` as root, which --install does";
            return Err(Error::Missing { path: BROWSERS[0].into(), advice });
        }
        workspace::watch(Command::new("apt-get").arg("update"))?;
        workspace::watch(Command::new("apt-get").args(["install", "--yes", BROWSERS[0]]))?;
    }
    test(&root, &[])?;
    if args.stand_in_only {
        return Ok(());
    }
    let model = fixtures::fetch(&[models::SMOLLM2])?.join(models::SMOLLM2);
    let model = format!("{}=smollm2-135m", model.display());
    // A small model may talk until its context is full: a short one ends it soon.
    let options = ["--model", &model, "--ctx", "512"];
    let server = Server::ours(&root, "browser", &Quarrel::dev(&root)?, &options, None)?;
    test(&root, &["--url", &server.url])
}

fn test(root: &Path, args: &[&str]) -> Result<()> {
    let shots = root.join("target/browser");
    let mut command = Command::new("python3");
    command.arg(root.join(SCRIPT)).arg("--screenshots").arg(shots).args(args);
    workspace::watch(command.env("NO_PROXY", "127.0.0.1"))
}
