//! `cargo xtask tidy`: the rules of ARCHITECTURE and CONTRIBUTING that a
//! program can check. Each finding names a place and what to do there.

mod edges;
mod length;
mod text;
mod tokens;

use std::fmt;
use std::fs;
use std::process::Command;

use proc_macro2::TokenStream;

use crate::error::{Error, Result, at};
use crate::workspace;

/// A place where a rule is broken.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// From the workspace's root, with `/`.
    file: String,
    /// From 1.
    line: usize,
    /// What is wrong and what to do.
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

/// A tracked text file.
struct Source {
    /// From the workspace's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    fn finding(&self, line: usize, message: impl Into<String>) -> Finding {
        Finding { file: self.path.clone(), line, message: message.into() }
    }

    fn has_extension(&self, extensions: &[&str]) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, extension)| extensions.contains(&extension))
    }
}

/// A Rust file, parsed once for all rules.
struct RustSource<'a> {
    source: &'a Source,
    syntax: syn::File,
    tokens: TokenStream,
}

/// Checks every file that git tracks or would track.
///
/// # Errors
/// [`Error::Findings`] when a rule is broken; files that cannot be read.
pub fn run() -> Result<()> {
    let sources = sources()?;
    let mut findings = check(&sources)?;
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("{} files are tidy", sources.len());
            Ok(())
        }
        n => Err(Error::Findings(n)),
    }
}

fn check(sources: &[Source]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut excesses = Vec::new();
    for source in sources {
        findings.extend(text::check(source));
        excesses.extend(length::of_file(source));
        if source.path.ends_with("Cargo.toml") {
            findings.extend(edges::check(source));
        }
        if source.has_extension(&["rs"]) {
            match parse(source) {
                Ok(rust) => {
                    findings.extend(tokens::check(&rust));
                    excesses.extend(length::of_functions(&rust));
                }
                Err(finding) => findings.push(finding),
            }
        }
    }
    let ratchet = sources.iter().find(|source| source.path == length::RATCHET);
    findings.extend(length::hold(&excesses, ratchet)?);
    Ok(findings)
}

fn parse(source: &Source) -> Result<RustSource<'_>, Finding> {
    let parsed = source.text.parse::<TokenStream>().map_err(|e| (e.span().start().line, e.to_string()));
    let both = parsed.and_then(|tokens| {
        let syntax = syn::parse_file(&source.text).map_err(|e| (e.span().start().line, e.to_string()))?;
        Ok((tokens, syntax))
    });
    match both {
        Ok((tokens, syntax)) => Ok(RustSource { source, syntax, tokens }),
        Err((line, message)) => Err(source.finding(line, format!("does not parse: {message}"))),
    }
}

/// The text files that git tracks, or would if they were added.
fn sources() -> Result<Vec<Source>> {
    let root = workspace::root()?;
    let mut git = Command::new("git");
    git.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = workspace::run("listing files", &mut git)?;
    let mut sources = Vec::new();
    for path in String::from_utf8_lossy(&listed.stdout).split_terminator('\0') {
        let file = root.join(path);
        if !file.is_file() {
            continue;
        }
        let bytes = fs::read(&file).map_err(at(&file))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path: path.to_owned(), text });
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The findings in one planted file, as `line: message` lines.
    pub fn planted(path: &str, text: &str) -> Vec<String> {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        let findings = check(&[source]).expect("no ratchet, nothing to fail");
        findings.iter().map(|f| format!("{}: {}", f.line, f.message)).collect()
    }

    #[test]
    fn a_tidy_file_passes() {
        let text = "//! A module.\n\n/// Adds.\npub fn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n";
        assert_eq!(planted("crates/gguf/src/add.rs", text), [] as [String; 0]);
    }

    #[test]
    fn what_does_not_parse_is_found() {
        let found = planted("crates/gguf/src/add.rs", "//! A module.\nfn f( {\n");
        assert!(found[0].contains("does not parse"), "{found:?}");
    }
}
