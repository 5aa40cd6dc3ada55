//! llama.cpp from the source distribution of its Python binding, built for
//! what the processor has.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result, at};
use crate::fixtures::{self, hash, python};
use crate::workspace::{run, watch};

/// The source distribution.
pub const PACKAGE: &str = "llama-cpp-python==0.3.36";

/// Of its archive: unlike other fixtures, what is in it is run.
const SHA256: &str = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e";

/// What builds it.
const BUILDERS: [&str; 2] = ["cmake==4.4.5", "ninja==1.13.2"];

/// The measuring programs.
pub const BENCHES: &[&str] = &["llama-bench", "llama-batched-bench"];

/// The server.
pub const SERVER: &str = "llama-server";

/// Nothing that is not measured, nothing from outside, no GPU.
const OPTIONS: [&str; 7] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_METAL=OFF",
];

/// An option of llama.cpp's build (without `GGML_`), and whether it is on.
type Switch = (&'static str, bool);

/// A build of llama.cpp.
pub struct Built {
    /// Where its programs are.
    pub directory: PathBuf,
    /// What it was built for, in words.
    pub target: String,
}

/// Fetches it and builds `programs` below `target/llama.cpp`, unless `skip_build`; for no
/// more than `isa` if that says AVX2, so that both sides are held to the same.
///
/// # Errors
/// What cannot be fetched or built; nothing there when the build is skipped.
pub fn build(root: &Path, programs: &[&str], isa: Option<&str>, skip_build: bool) -> Result<Built> {
    let version = PACKAGE.rsplit("==").next().unwrap_or(PACKAGE);
    let dir = root.join("target/llama.cpp").join(version);
    let switches = held_to(isa, switches());
    let target = words(&switches);
    let to = dir.join(format!("build-{}", target.to_lowercase().replace([',', ' '], "-").replace("--", "-")));
    if !skip_build {
        let source = dir.join("source");
        fetch(&dir, &source)?;
        compile(&source, &to, programs, &switches)?;
    }
    let directory = to.join("bin");
    check(&directory, programs, "run without --skip-build")?;
    Ok(Built { directory, target })
}

/// Says which of `programs` is not in `directory`, and what to do.
///
/// # Errors
/// [`Error::Missing`].
pub fn check(directory: &Path, programs: &[&str], advice: &'static str) -> Result<()> {
    for program in programs {
        let path = directory.join(program);
        if !path.exists() {
            return Err(Error::Missing { path, advice });
        }
    }
    Ok(())
}

/// Leaves the source tree at `to`.
fn fetch(dir: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        return Ok(());
    }
    eprintln!("fetching {PACKAGE}");
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    let temp = tempfile::tempdir_in(dir).map_err(at(dir))?;
    let archives = python::download(temp.path(), &[PACKAGE.to_owned()], "--no-binary=llama-cpp-python")?;
    let found = hash::of(&archives[0])?;
    if found != SHA256 {
        return Err(Error::Hash { path: archives[0].clone(), expected: SHA256.to_owned(), found });
    }
    let made = temp.path().join("made");
    python::unpack_tree(&archives[0], ("*/vendor/llama.cpp/", &["**"]), &made)?;
    std::fs::rename(&made, to).map_err(at(to))
}

/// Builds `programs` in `to`; quick when they are there already.
fn compile(source: &Path, to: &Path, programs: &[&str], switches: &[Switch]) -> Result<()> {
    let bin = fixtures::programs(&BUILDERS)?;
    let mut configure = Command::new(bin.join("cmake"));
    configure.arg("-S").arg(source).arg("-B").arg(to).args(["-G", "Ninja"]);
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", bin.join("ninja").display())).args(OPTIONS);
    if !switches.iter().any(|(name, _)| *name == "NATIVE") {
        configure.arg("-DGGML_NATIVE=OFF");
    }
    configure
        .args(switches.iter().map(|(name, on)| format!("-DGGML_{name}={}", if *on { "ON" } else { "OFF" })));
    let what = "configuring llama.cpp, which needs a C++ compiler (on Debian: apt install g++)";
    run(what, &mut configure)?;
    eprintln!("building llama.cpp");
    watch(Command::new(bin.join("cmake")).arg("--build").arg(to).arg("--target").args(programs))
}

/// What this processor has.
#[cfg(target_arch = "x86_64")]
fn switches() -> Vec<Switch> {
    macro_rules! has {
        ($($name:tt)*) => { true $(&& is_x86_feature_detected!($name))* };
    }
    // What llama.cpp's code for AVX-512 uses.
    let avx512 = has!("avx512f" "avx512cd" "avx512vl" "avx512dq" "avx512bw");
    vec![
        ("SSE42", has!("sse4.2")),
        ("AVX", has!("avx")),
        ("AVX2", has!("avx2")),
        ("FMA", has!("fma")),
        ("F16C", has!("f16c")),
        ("BMI2", has!("bmi2")),
        ("AVX_VNNI", has!("avxvnni")),
        ("AVX512", avx512),
        ("AVX512_VBMI", avx512 && has!("avx512vbmi")),
        ("AVX512_VNNI", avx512 && has!("avx512vnni")),
        ("AVX512_BF16", avx512 && has!("avx512bf16")),
    ]
}

/// Elsewhere the compiler finds out.
#[cfg(not(target_arch = "x86_64"))]
fn switches() -> Vec<Switch> {
    vec![("NATIVE", true)]
}

/// Without what goes beyond AVX2, if `isa` is that.
fn held_to(isa: Option<&str>, switches: Vec<Switch>) -> Vec<Switch> {
    let avx2 = isa.is_some_and(|isa| isa.eq_ignore_ascii_case("avx2"));
    let beyond = |name: &str| name.starts_with("AVX512") || name == "AVX_VNNI";
    switches.into_iter().map(|(name, on)| (name, on && !(avx2 && beyond(name)))).collect()
}

/// The switches that are on, from AVX2 upwards where there is that.
fn words(switches: &[Switch]) -> String {
    let on: Vec<&str> = switches.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    let known_by_avx2 = ["SSE42", "AVX", "FMA", "F16C", "BMI2"];
    let has_avx2 = on.contains(&"AVX2");
    on.into_iter().filter(|name| !(has_avx2 && known_by_avx2.contains(name))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEN5: [Switch; 6] = [
        ("AVX", true),
        ("AVX2", true),
        ("FMA", true),
        ("AVX_VNNI", true),
        ("AVX512", true),
        ("AVX512_VNNI", true),
    ];

    #[test]
    fn avx2_holds_the_peer_too() {
        let words_for = |isa| words(&held_to(isa, ZEN5.to_vec()));
        assert_eq!(words_for(None), "AVX2, AVX_VNNI, AVX512, AVX512_VNNI");
        assert_eq!(words_for(Some("avx512")), words_for(None));
        assert_eq!(words_for(Some("avx2")), "AVX2");
        assert_eq!(held_to(Some("avx2"), ZEN5.to_vec()).len(), ZEN5.len(), "off is said, not left out");
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("llama-bench"), "").expect("writable");
        let error = check(dir.path(), BENCHES, "look again").expect_err("one is missing").to_string();
        assert!(error.ends_with("llama-batched-bench is missing: look again"), "{error}");
    }
}
