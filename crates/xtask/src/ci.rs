//! `cargo xtask ci`: everything that must hold before a change lands, in the
//! order in which it is cheapest to fail.

use std::process::Command;

use crate::error::{Error, Result};
use crate::workspace;

/// The version of cargo-deny that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// Runs every check, stopping at the first that fails.
pub fn run() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["xtask", "tidy"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    cargo(&["xtask", "fixtures"])?;
    cargo(&["test", "--workspace", "--locked"])?;
    cargo(&["xtask", "clients"])?;
    cargo(&["xtask", "schemathesis", "--seconds", "60"])?;
    cargo(&["xtask", "browser", "--install", "--stand-in-only"])?;
    cargo(&["xtask", "apple"])?;
    cargo(&["xtask", "traffic", "--check"])?;
    cargo(&["xtask", "kernels"])?;
    if cfg!(not(target_arch = "aarch64")) {
        cargo(&["xtask", "arm", "--quick", "--install"])?;
    }
    licences()
}

/// Checks licences and sources with cargo-deny, installing it where it is missing.
fn licences() -> Result<()> {
    let there = Command::new("cargo").args(["deny", "--version"]).output();
    if !there.is_ok_and(|out| out.status.success()) {
        cargo(&["install", "--locked", "cargo-deny", "--version", CARGO_DENY])?;
    }
    cargo(&["deny", "check", "licenses", "bans", "sources"])
}

fn cargo(args: &[&str]) -> Result<()> {
    step("cargo", args)
}

/// Runs a program in the workspace, its output going where ours goes.
fn step(program: &str, args: &[&str]) -> Result<()> {
    let command = format!("{program} {}", args.join(" "));
    println!("== {command}");
    let started = std::time::Instant::now();
    let status = Command::new(program)
        .args(args)
        .current_dir(workspace::root()?)
        .status()
        .map_err(|source| Error::Start { program: program.to_owned(), source })?;
    println!("== {} s", started.elapsed().as_secs());
    if status.success() { Ok(()) } else { Err(Error::Check { command, status }) }
}
