//! `cargo xtask gpu`: what must hold on a machine with an NVIDIA GPU, which CI
//! has none of: every op's cases, then whole models.
//!
//! The programs that test run on a machine without cargo too, if they find
//! `target/fixtures` where they were built for it: `--list` says which they are.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::{kernels, workspace};

/// Tests of whole models; their device is in the module `cuda`.
const TESTS: [(&str, &[&str]); 2] = [
    ("quarrel-model", &["--test=tiny", "--test=hidden", "--test=smollm2", "--test=cuda"]),
    ("quarrel-engine", &["--test=deterministic", "--test=embeddings"]),
];

/// What a test program is given.
const ARGUMENTS: [&str; 4] = ["cuda::", "--ignored", "--nocapture", "--test-threads=1"];

/// What checks ops and layers.
const OPS: &[&str] = &["--package=quarrel-backend", "--example=gpu_check"];

/// What it checks: every op against its reference, and bits that must not depend on other rows,
/// replies multiplied as integers and in bfloat16; then with the kernels and memory that other devices have.
const PARTS: [&[&str]; 10] = [
    &["cases"],
    &["invariance"],
    &["cases", "--bf16"],
    &["invariance", "--bf16"],
    &["engines", "--bf16"],
    &["cases", "--as", "75"],
    &["cases", "--as", "80"],
    &["cases", "--as", "89"],
    &["cases", "--as", "120"],
    &["invariance", "--as", "89"],
];

/// How the tests are run.
#[derive(clap::Args)]
pub struct Args {
    /// Build the programs and print how each is started, to run them on another machine
    #[arg(long)]
    list: bool,
    /// The file of NVRTC; otherwise one is fetched as a Python package
    #[arg(long, value_name = "FILE")]
    nvrtc: Option<PathBuf>,
}

/// Builds the tests, and runs them unless `--list` asks for their names only.
///
/// # Errors
/// A test that fails; a machine without a device.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    if args.list {
        return list(&root);
    }
    let nvrtc = match &args.nvrtc {
        Some(nvrtc) => nvrtc.clone(),
        None => kernels::nvrtc(&root)?,
    };
    for part in PARTS {
        let mut check = workspace::cargo();
        check.current_dir(&root).arg("run").args(OPS).arg("--").args(part).arg("--nvrtc").arg(&nvrtc);
        workspace::watch(&mut check)?;
    }
    for (package, tests) in TESTS {
        let mut command = workspace::cargo();
        command.current_dir(&root).args(["test", "--package", package]).args(tests);
        workspace::watch(command.arg("--").args(ARGUMENTS).env("QUARREL_TEST_NVRTC", &nvrtc))?;
    }
    Ok(())
}

/// Prints a command line for each program.
fn list(root: &Path) -> Result<()> {
    println!("QUARREL_TEST_NVRTC names NVRTC's file where it is not among the system's libraries.");
    for path in built(root, "build", OPS)? {
        for part in PARTS {
            println!("{} {}", path.display(), part.join(" "));
        }
    }
    for (package, tests) in TESTS {
        let mut options = vec!["--no-run", "--package", package];
        options.extend(tests);
        for path in built(root, "test", &options)? {
            println!("{} {}", path.display(), ARGUMENTS.join(" "));
        }
    }
    Ok(())
}

/// The programs that a cargo command makes.
fn built(root: &Path, command: &str, options: &[&str]) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    let mut cargo = workspace::cargo();
    cargo.current_dir(root).arg(command).args(options).arg("--message-format=json");
    let out = workspace::run("building the tests", &mut cargo)?;
    let text = String::from_utf8_lossy(&out.stdout);
    let messages = text.lines().filter(|line| line.starts_with('{')).map(serde_json::from_str::<Message>);
    let messages = messages.collect::<Result<Vec<_>, _>>();
    let messages =
        messages.map_err(|e| Error::Output { program: format!("cargo {command}"), what: e.to_string() })?;
    Ok(messages.into_iter().filter_map(|message| message.executable).collect())
}
