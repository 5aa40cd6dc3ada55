//! `cargo xtask pgo`: a `quarrel` built with the profile of a typical load.
//!
//! Three steps of rustc and LLVM (build with counters, run, build again) are
//! few enough to do here; cargo-pgo would be one more tool to install.

mod load;
mod report;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result, at};
use crate::fixtures::{self, hash};
use crate::models::{self, SMOLLM2};
use crate::quarrel::{self, Quarrel};
use crate::workspace::{self, run as run_command};

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Build only, without measuring what it gains
    #[arg(long)]
    skip_report: bool,
    /// Instruction sets to profile besides the one this processor takes, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    isa: Vec<String>,
    /// Models of the report, separated by commas
    #[arg(long, value_delimiter = ',', default_value = models::DEFAULT, value_parser = models::parser())]
    models: Vec<String>,
    /// How often each build is measured, in turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// A long text among the fixtures.
const TEXT: &str = "wikitext-2-test.txt";

/// Builds, profiles, builds again and reports.
///
/// # Errors
/// Missing LLVM tools, a build or a command that fails.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    let profiled = profiled(&root, &args.isa)?;
    println!("built {}", profiled.binary.display());
    if args.skip_report {
        return Ok(());
    }
    let plain = Quarrel::release(&root, false)?;
    let files = models::make(&root, &plain, &args.models)?;
    report::run(&profiled, &plain, &args.models, &files, args.rounds)
}

/// Builds, profiles and builds again, below `target/pgo`.
///
/// # Errors
/// Missing LLVM tools, a build or a command that fails.
pub fn profiled(root: &Path, isas: &[String]) -> Result<Quarrel> {
    let dir = root.join("target/pgo");
    let toolchain = Toolchain::find(root)?;
    let fixtures = fixtures::fetch(&[SMOLLM2, TEXT])?;
    let raw = dir.join("raw");
    empty(&raw)?;
    let flag = format!("-Cprofile-generate={}", raw.display());
    let counting = build(root, &dir.join("counting"), &toolchain.host, &flag)?;
    load::run(&counting, &fixtures.join(SMOLLM2), &fixtures.join(TEXT), &dir.join("models"), isas)?;

    let profile = toolchain.merge(&raw, &dir)?;
    let flag = format!("-Cprofile-use={}", profile.display());
    build(root, &dir.join("profiled"), &toolchain.host, &flag)
}

/// The parts of the compiler's toolchain that profiles need.
struct Toolchain {
    host: String,
    profdata: PathBuf,
}

impl Toolchain {
    /// Finds them, after having rustup install LLVM's tools if they are missing.
    fn find(root: &Path) -> Result<Self> {
        let mut rustc = Command::new("rustc");
        rustc.current_dir(root).args(["--print", "host-tuple", "--print", "sysroot"]);
        let out = run_command("finding the toolchain", &mut rustc)?;
        let text = String::from_utf8_lossy(&out.stdout);
        let [host, sysroot] = text.lines().collect::<Vec<_>>()[..] else {
            return Err(Error::Output { program: "rustc --print".to_owned(), what: text.into_owned() });
        };
        let name = format!("llvm-profdata{}", std::env::consts::EXE_SUFFIX);
        let profdata = Path::new(sysroot).join("lib/rustlib").join(host).join("bin").join(name);
        if !profdata.exists() {
            let what = "installing llvm-tools (without rustup: install rustc's own llvm-profdata)";
            let mut rustup = Command::new("rustup");
            rustup.current_dir(root).args(["component", "add", "llvm-tools"]);
            run_command(what, &mut rustup)?;
        }
        if !profdata.exists() {
            return Err(Error::Missing { path: profdata, advice: "rustup component add llvm-tools" });
        }
        Ok(Self { host: host.to_owned(), profdata })
    }

    /// Merges what the runs left in `raw`. The profile's name has its hash:
    /// cargo looks at flags, not at the files they name.
    fn merge(&self, raw: &Path, dir: &Path) -> Result<PathBuf> {
        let merged = dir.join("merged.profdata");
        let mut command = Command::new(&self.profdata);
        command.args(["merge", "--output"]).arg(&merged).arg(raw);
        run_command("merging profiles", &mut command)?;
        let named = dir.join(format!("merged-{}.profdata", &hash::of(&merged)?[..16]));
        std::fs::rename(&merged, &named).map_err(at(&named))?;
        Ok(named)
    }
}

/// An empty directory at `path`: counters of older code would not fit.
fn empty(path: &Path) -> Result<()> {
    if path.exists() {
        std::fs::remove_dir_all(path).map_err(at(path))?;
    }
    std::fs::create_dir_all(path).map_err(at(path))
}

/// The release build with one more flag, in a target directory of its own.
fn build(root: &Path, to: &Path, host: &str, flag: &str) -> Result<Quarrel> {
    let mut cargo = workspace::cargo();
    cargo.current_dir(root).args(["build", "--release", "--locked", "--package", "quarrel"]);
    // A named target keeps the flag from build scripts and macros.
    cargo.args(["--target", host, "--target-dir"]).arg(to);
    let given = std::env::var("RUSTFLAGS").unwrap_or_default();
    cargo.env("CARGO_ENCODED_RUSTFLAGS", encoded(&given, flag));
    workspace::watch(&mut cargo)?;
    Ok(Quarrel { binary: to.join(host).join("release").join(quarrel::file_name()), isa: None })
}

/// `RUSTFLAGS` and `flag` in the form that allows spaces in paths.
fn encoded(given: &str, flag: &str) -> String {
    given.split_whitespace().chain([flag]).collect::<Vec<_>>().join("\u{1f}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_kept_apart() {
        assert_eq!(encoded("", "-Ca=/b c"), "-Ca=/b c");
        assert_eq!(encoded(" -Cx  -Cy", "-Ca=/b c"), "-Cx\u{1f}-Cy\u{1f}-Ca=/b c");
    }

    #[test]
    fn emptying_makes_and_clears() {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let path = temp.path().join("a/b");
        empty(&path).expect("a new directory");
        std::fs::write(path.join("old"), "").expect("writable");
        empty(&path).expect("the same directory");
        assert_eq!(std::fs::read_dir(&path).expect("readable").count(), 0);
    }
}
