//! `cargo xtask arm`: the CPU backend's tests for 64-bit ARM, emulated by QEMU on
//! another processor: as one without dot products of bytes and as one with all
//! that QEMU knows, so that every instruction set is run.

use std::process::Command;

use crate::error::{Error, Result};
use crate::workspace::{self, UNOPTIMISED_BACKEND};

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Programs that are needed and no Rust tool installs.
const PROGRAMS: [&str; 2] = ["aarch64-linux-gnu-gcc", "qemu-aarch64"];

/// The Debian packages that have them, and the C library to link with.
const PACKAGES: [&str; 3] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];

/// Where the packages put that library.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// QEMU's names of a processor with plain NEON and of one with everything.
const PROCESSORS: [&str; 2] = ["cortex-a72", "max"];

/// Every operation, dot product and way to unpack, to the bit: a minute, and not optimised, which would
/// take longer than they run.
const QUICK: [&[&str]; 1] = [&["--package=quarrel-backend", "--lib", UNOPTIMISED_BACKEND, "--", "cpu::"]];

/// All unit tests, every op, then results whatever stands beside them, then every architecture: many minutes.
const WHOLE: [&[&str]; 4] = [
    &["--package=quarrel-backend", "--lib"],
    &["--package=quarrel-backend", "--test=ops"],
    &["--package=quarrel-backend", "--test=invariance"],
    &["--package=quarrel-model", "--test=tiny"],
];

/// How much is to be run.
#[derive(clap::Args)]
pub struct Args {
    /// Only what takes a minute or two
    #[arg(long)]
    pub quick: bool,
    /// Install what is missing by apt, as root
    #[arg(long)]
    pub install: bool,
}

/// Builds and runs the tests.
///
/// # Errors
/// A program that is missing, with where to get it; a test that fails.
pub fn run(args: &Args) -> Result<()> {
    if let Some(program) = missing() {
        if args.install {
            workspace::watch(Command::new("apt-get").arg("update"))?;
            workspace::watch(Command::new("apt-get").args(["install", "--yes"]).args(PACKAGES))?;
        } else {
            let advice = "on Debian and Ubuntu `apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross \
                          qemu-user` as root, which --install does";
            return Err(Error::Missing { path: program.into(), advice });
        }
    }
    workspace::watch(Command::new("rustup").args(["target", "add", TARGET]))?;
    let wanted: &[&[&str]] = if args.quick { &QUICK } else { &WHOLE };
    for processor in PROCESSORS {
        for tests in wanted {
            test(processor, tests)?;
        }
    }
    Ok(())
}

/// The first of [`PROGRAMS`] that cannot be started.
fn missing() -> Option<&'static str> {
    let starts = |program: &str| Command::new(program).arg("--version").output().is_ok();
    PROGRAMS.into_iter().find(|program| !starts(program))
}

fn test(processor: &str, tests: &[&str]) -> Result<()> {
    println!("== {} on {processor}", tests.join(" "));
    let mut command = workspace::cargo();
    command.current_dir(workspace::root()?).args(["test", "--locked", "--target", TARGET]).args(tests);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", PROGRAMS[0]);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", PROGRAMS[1]);
    workspace::watch(command.env("QEMU_LD_PREFIX", LIBRARIES).env("QEMU_CPU", processor))
}
