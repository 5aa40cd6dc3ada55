//! A program for a Mac with the Metal backend in it, linked where there is no Mac, and what it
//! says of itself. It was never started.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use super::{TARGET, mach_o, sdk};
use crate::error::{Error, Result, at};
use crate::kernels::Zig;
use crate::workspace::{UNOPTIMISED_BACKEND, cargo};

/// The first macOS that has Metal 3.
const MACOS: (u32, u32) = (13, 0);

/// Rust's own copy of LLVM's linker; dependencies that are made into libraries of their own need it
/// too. Without optimisation, which linking does not need.
const CONFIGURATION: [&str; 7] = [
    "--config=target.aarch64-apple-darwin.linker='rust-lld'",
    "--config=target.aarch64-apple-darwin.rustflags=['-Clinker-flavor=ld64.lld', '-Clink-arg=-fatal_warnings']",
    "--config=profile.dev.opt-level=0",
    UNOPTIMISED_BACKEND,
    "--config=profile.dev.package.quarrel-gguf.opt-level=0",
    "--config=profile.dev.package.sha2.opt-level=0",
    "--config=profile.dev.debug=false",
];

/// A program to link.
struct Wanted {
    /// What cargo calls it.
    args: [&'static str; 2],
    /// What it loads beside the C library.
    libraries: &'static [&'static [sdk::Library]],
}

/// The tests that a Mac runs.
const TESTS: Wanted =
    Wanted { args: ["--package=quarrel-backend", "--test=metal"], libraries: &[&sdk::OF_BACKEND] };
/// All of it.
const QUARREL: Wanted =
    Wanted { args: ["--package=quarrel", "--bin=quarrel"], libraries: &[&sdk::OF_BACKEND, &sdk::OF_REST] };

/// Links the tests that a Mac runs, before that where a function of the framework is missing, and
/// with `whole` all of `quarrel`.
///
/// # Errors
/// What the linker says; a program that macOS would not take; a missing function that is not noticed.
pub fn run(root: &Path, target: &Path, whole: bool) -> Result<()> {
    let zig = Zig::find(root)?;
    let [sdk, incomplete] = ["apple-sdk", "apple-sdk-incomplete"].map(|name| target.join(name));
    sdk::write(&incomplete, &zig.c_library(), Some(sdk::DEVICE))?;
    let refused = link(root, &incomplete, &zig, &TESTS)?;
    let messages = String::from_utf8_lossy(&refused.stderr);
    if refused.status.success() || !messages.contains(&format!("undefined symbol: _{}", sdk::DEVICE)) {
        let what = format!("`{}` was hidden, and the linker did not miss it:\n{messages}", sdk::DEVICE);
        return Err(Error::Output { program: "rust-lld".to_owned(), what });
    }
    sdk::write(&sdk, &zig.c_library(), None)?;
    let programs: &[_] = if whole { &[TESTS, QUARREL] } else { &[TESTS] };
    programs.iter().try_for_each(|wanted| check(link(root, &sdk, &zig, wanted)?, wanted))
}

fn check(linked: Output, wanted: &Wanted) -> Result<()> {
    if !linked.status.success() {
        let what = String::from_utf8_lossy(&linked.stderr).into_owned();
        return Err(Error::Output { program: "rust-lld".to_owned(), what });
    }
    let program = executable(&linked.stdout)?;
    let bytes = std::fs::read(&program).map_err(at(&program))?;
    let problems = problems(mach_o::read(&bytes), wanted);
    if !problems.is_empty() {
        return Err(Error::Missed(problems));
    }
    println!("{} is linked: {} bytes, for macOS {}.{}", program.display(), bytes.len(), MACOS.0, MACOS.1);
    Ok(())
}

fn link(root: &Path, sdk: &Path, zig: &Zig, wanted: &Wanted) -> Result<Output> {
    let mut command = cargo();
    command.current_dir(root).args(["rustc", "--locked", "--quiet", "--target", TARGET]).args(wanted.args);
    command.args(CONFIGURATION).args(["--message-format=json-render-diagnostics", "--"]);
    // As an argument too, so that cargo sees that another one is another program.
    command.arg(format!("-Clink-arg=-F{}", sdk.join(sdk::FRAMEWORKS).display()));
    command.env("SDKROOT", sdk).env("MACOSX_DEPLOYMENT_TARGET", format!("{}.{}", MACOS.0, MACOS.1));
    command.env("CC_aarch64_apple_darwin", zig.clang()).env("CFLAGS_aarch64_apple_darwin", zig.c_flags());
    command.output().map_err(|source| Error::Start { program: "cargo".to_owned(), source })
}

/// The program among what cargo says it made.
fn executable(messages: &[u8]) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Message {
        executable: Option<PathBuf>,
    }
    let lines = messages.split(|&byte| byte == b'\n');
    let made = lines.filter_map(|line| serde_json::from_slice::<Message>(line).ok()?.executable).next_back();
    made.ok_or_else(|| Error::Output { program: "cargo".to_owned(), what: "it made no program".to_owned() })
}

/// Why macOS would not start it, or it is not what was wanted.
fn problems(program: Option<mach_o::Program>, wanted: &Wanted) -> Vec<String> {
    let Some(program) = program else { return vec!["it is no program for a Mac".to_owned()] };
    let wanted = wanted.libraries.iter().copied().flatten().map(|library| library.name);
    let wanted: BTreeSet<_> = wanted.chain([sdk::C_LIBRARY_NAME]).collect();
    let loaded: BTreeSet<_> = program.libraries.iter().map(String::as_str).collect();
    let checks = [
        (program.macos == Some(MACOS), format!("it is for macOS {:?}, not {MACOS:?}", program.macos)),
        (program.starts, "it has no place to start at".to_owned()),
        (program.is_signed, "it is not signed".to_owned()),
        (loaded == wanted, format!("it loads {loaded:?}, not {wanted:?}")),
    ];
    checks.into_iter().filter(|(holds, _)| !holds).map(|(_, problem)| problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> mach_o::Program {
        let names = sdk::OF_BACKEND.iter().map(|library| library.name).chain([sdk::C_LIBRARY_NAME]);
        let libraries = names.map(str::to_owned).collect();
        mach_o::Program { macos: Some(MACOS), libraries, starts: true, is_signed: true }
    }

    #[test]
    fn what_macos_would_not_take_is_said() {
        assert_eq!(problems(Some(good()), &TESTS), [] as [&str; 0]);
        assert_eq!(problems(None, &TESTS).len(), 1);
        let later = mach_o::Program { macos: Some((26, 0)), is_signed: false, starts: false, ..good() };
        assert_eq!(problems(Some(later), &TESTS).len(), 3);
        assert_eq!(problems(Some(good()), &QUARREL).len(), 1, "libraries are missing");
        let mut other = good();
        other.libraries.push("/usr/lib/libelse.dylib".to_owned());
        assert_eq!(problems(Some(other), &TESTS).len(), 1, "one is unknown");
    }

    #[test]
    fn the_program_is_found_among_messages() {
        let messages = b"{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
                         {\"reason\":\"compiler-artifact\",\"executable\":\"/a/b\"}\n{\"reason\":\"build-finished\"}\n";
        assert_eq!(executable(messages).unwrap(), PathBuf::from("/a/b"));
        assert!(executable(b"").is_err());
    }
}
