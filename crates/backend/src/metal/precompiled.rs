//! Metal libraries that Apple's compiler makes while Quarrel is built, where it is there: then a run
//! has its kernels compiled for the device alone. What is not among them comes from source.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use sha2::{Digest, Sha256};

use crate::gpu::source::{Dialect, SOURCES, Source};
use crate::gpu::{Gpu, Library, Multiplier, Paper};
use crate::harness;

/// Apple's compiler, which links a program that it compiles as well.
pub const COMPILER: [&str; 4] = ["xcrun", "-sdk", "macosx", "metal"];

/// Arithmetic as it is written, which `dialect.h` says too.
const OPTIONS: [&str; 1] = ["-fno-fast-math"];

/// All that may multiply the rows of prompts.
pub const MULTIPLIERS: [Multiplier; 4] = [
    Multiplier::Kernels,
    Multiplier::Tensors,
    Multiplier::Library(Library::Matrices),
    Multiplier::Library(Library::Graph),
];

/// Metal libraries by the [`key`] of their program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Libraries(pub &'static [(&'static str, &'static [u8])]);

impl Libraries {
    /// That of a program. It needs macOS 14, with tensors 26.1.
    pub fn find(&self, source: &Source, definitions: &str) -> Option<&'static [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let key = key(source, definitions);
        self.0.iter().find(|(other, _)| *other == key).map(|(_, library)| *library)
    }
}

/// The language that a source is compiled as, and the first macOS that knows it: from 3.1 on there is
/// bfloat, from 4 on there are tensors.
fn language(source: &Source) -> [&'static str; 2] {
    match source.has_tensors() {
        true => ["-std=metal4.0", "-mmacosx-version-min=26.1"],
        false => ["-std=metal3.1", "-mmacosx-version-min=14.0"],
    }
}

/// A hash of what makes a library.
fn key(source: &Source, definitions: &str) -> String {
    let mut hash = Sha256::new();
    for part in language(source).iter().chain(&OPTIONS) {
        hash.update(part);
        hash.update([0]);
    }
    hash.update(source.text(Dialect::Metal, definitions));
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every source of Metal with the definitions that the harness's cases have it compiled with: those of every
/// format and kind of cache, and of the usual shapes.
pub fn programs() -> BTreeSet<(&'static str, String)> {
    /// Any will do: values do not matter.
    const SEED: u64 = 0;
    let cases = harness::cases(SEED);
    let of = |multiplier| {
        let paper = Paper::with_multiplier("metal", multiplier);
        let (notes, mut paper) = (paper.notes(), Gpu::new(paper));
        for case in &cases {
            // What has no kernel asks for none.
            let _ = case.run_on(&mut paper, SEED);
        }
        notes.programs()
    };
    MULTIPLIERS.into_iter().flat_map(of).collect()
}

/// Rust's text for a table of libraries, made from `programs` by `compiler` in `dir`, for [`Libraries`]; and
/// what went wrong, of which there is no library then.
///
/// # Errors
/// `dir` cannot be written to. No compiler is no error: the table is empty.
pub fn table(
    programs: &BTreeSet<(&'static str, String)>,
    compiler: &[&str],
    dir: &Path,
) -> io::Result<(String, Vec<String>)> {
    if !is_there(compiler) {
        return Ok(("&[]".to_owned(), Vec::new()));
    }
    let rest = Mutex::new(programs.iter());
    let (made, failed) = (Mutex::new(BTreeSet::new()), Mutex::new(Vec::new()));
    let work = || -> io::Result<()> {
        loop {
            let next = rest.lock().expect("nobody panics while holding it").next();
            let Some((name, definitions)) = next else { return Ok(()) };
            let source = SOURCES.iter().find(|source| source.name == *name).expect("it was asked for");
            match compile(source, definitions, compiler, dir)? {
                Ok(library) => made.lock().expect("nobody panics while holding it").insert(library),
                Err(problem) => {
                    failed.lock().expect("nobody panics while holding it").push(problem);
                    continue;
                }
            };
        }
    };
    thread::scope(|scope| {
        let n_threads = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("compiling does not panic"))
    })?;
    let made = made.into_inner().expect("all threads have ended");
    let line =
        |(key, path): &(String, PathBuf)| format!("    ({key:?}, include_bytes!({path:?}) as &[u8]),\n");
    let table = format!("&[\n{}]", made.iter().map(line).collect::<String>());
    Ok((table, failed.into_inner().expect("all threads have ended")))
}

/// Xcode's command-line tools alone have no compiler of Metal.
fn is_there(compiler: &[&str]) -> bool {
    let version = command(compiler).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

fn command(compiler: &[&str]) -> Command {
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]);
    command
}

/// A library with its key, or what the compiler said.
fn compile(
    source: &Source,
    definitions: &str,
    compiler: &[&str],
    dir: &Path,
) -> io::Result<Result<(String, PathBuf), String>> {
    let key = key(source, definitions);
    let (text, library) = (dir.join(format!("{key}.metal")), dir.join(format!("{key}.metallib")));
    fs::write(&text, source.text(Dialect::Metal, definitions))?;
    let mut compiler = command(compiler);
    let output = compiler.args(OPTIONS).args(language(source)).arg(&text).arg("-o").arg(&library).output()?;
    if output.status.success() {
        return Ok(Ok((key, library)));
    }
    let definitions = definitions.trim_end();
    Ok(Err(format!("{}, {definitions}: {}", source.name, String::from_utf8_lossy(&output.stderr))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::source::weight_format;

    const MISSING: [&str; 1] = ["quarrel-has-no-such-compiler"];

    /// A compiler that refuses what is of Metal 4, and else gives back what it was told.
    fn fake(dir: &Path) -> [String; 2] {
        let script = dir.join("compiler.sh");
        let text = "if [ \"$2\" = -std=metal4.0 ]; then echo no tensors >&2; exit 1; fi\n\
                    if [ \"$1\" != --version ]; then echo \"$1 $2 $3\" > \"$6\"; cat \"$4\" >> \"$6\"; fi\n";
        fs::write(&script, text).unwrap();
        ["sh".to_owned(), script.to_str().unwrap().to_owned()]
    }

    #[test]
    fn a_table_has_what_the_compiler_made() {
        let dir = tempfile::tempdir().unwrap();
        let name = |source: &'static str, format| (source, weight_format(format));
        let programs = BTreeSet::from([
            name("simd_maps", "q4_0"),
            name("simd_maps", "q8_0"),
            name("simd_tensors", "q4_0"),
        ]);
        let fake = fake(dir.path());
        let (table, failed) = table(&programs, &fake.each_ref().map(String::as_str), dir.path()).unwrap();
        assert_eq!(failed.len(), 1);
        assert!(
            failed[0].starts_with("simd_tensors, ") && failed[0].ends_with(": no tensors\n"),
            "{}",
            failed[0]
        );
        assert_eq!(table.matches("include_bytes!").count(), 2, "{table}");

        let source = |name| *SOURCES.iter().find(|source| source.name == name).unwrap();
        let (maps, tensors) = (source("simd_maps"), source("simd_tensors"));
        let definitions = weight_format("q4_0");
        let key = key(maps, &definitions);
        let text = fs::read_to_string(dir.path().join(format!("{key}.metallib"))).unwrap();
        assert!(text.starts_with("-fno-fast-math -std=metal3.1 -mmacosx-version-min=14.0\n"), "{text}");
        assert!(text.ends_with(&maps.text(Dialect::Metal, &definitions)));

        let of_q4_0: &'static str = key.leak();
        let libraries = Libraries(Box::leak(Box::new([(of_q4_0, &b"library"[..])])));
        assert_eq!(libraries.find(maps, &definitions), Some(&b"library"[..]));
        assert_eq!(libraries.find(maps, &weight_format("q8_0")), None);
        assert_eq!(libraries.find(tensors, &definitions), None);
        assert_eq!(Libraries::default().find(maps, &definitions), None);
    }

    #[test]
    fn without_a_compiler_there_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let programs = BTreeSet::from([("simd_maps", weight_format("q4_0"))]);
        let none = table(&programs, &MISSING, dir.path()).unwrap();
        assert_eq!(none, ("&[]".to_owned(), Vec::new()));
        assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
