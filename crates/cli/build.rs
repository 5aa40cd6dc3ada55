//! Precompiles Metal's kernels where Apple's compiler is.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a directory for what is built"));
    let is_for_macos = env::var_os("CARGO_CFG_TARGET_OS").is_some_and(|system| system == "macos");
    let table = if is_for_macos { libraries(&out) } else { "&[]".to_owned() };
    fs::write(out.join("metal_libraries.rs"), table).expect("cargo's directory can be written to");
}

/// A table for `backend::metal::Libraries`.
#[cfg(target_os = "macos")]
fn libraries(out: &std::path::Path) -> String {
    use backend::metal::precompiled;

    let (table, failed) = precompiled::table(&precompiled::programs(), &precompiled::COMPILER, out)
        .expect("cargo's directory can be written to");
    for problem in failed {
        println!(
            "cargo::warning=a Metal kernel will be compiled when it is first used: {}",
            problem.replace('\n', " ")
        );
    }
    table
}

/// Apple's compiler is for Macs alone.
#[cfg(not(target_os = "macos"))]
fn libraries(_: &std::path::Path) -> String {
    "&[]".to_owned()
}
