//! How long files and functions may be. What was longer when the rule came is
//! listed in a ratchet file and may only shrink.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};

use super::{Finding, RustSource, Source};
use crate::error::{Error, Result};

/// Most lines of a source file.
const FILE: usize = 600;

/// Most lines of a function, signature included.
const FUNCTION: usize = 70;

/// Where known excesses are listed: `"FILE" = LINES`, `"FILE FUNCTION" = LINES`.
pub const RATCHET: &str = "crates/xtask/tidy-ratchet.toml";

/// A file or function that is too long.
pub struct Excess {
    /// As in the ratchet file.
    key: String,
    file: String,
    line: usize,
    lines: usize,
    limit: usize,
}

/// The excess of a source file, if any.
pub fn of_file(source: &Source) -> Option<Excess> {
    let is_code = source.has_extension(&["rs", "metal", "cu", "cuh", "h", "c", "cpp", "py", "js"]);
    let lines = source.text.lines().count();
    (is_code && lines > FILE).then(|| Excess {
        key: source.path.clone(),
        file: source.path.clone(),
        line: FILE + 1,
        lines,
        limit: FILE,
    })
}

/// The excesses of a Rust file's functions.
pub fn of_functions(rust: &RustSource<'_>) -> Vec<Excess> {
    let mut functions = Functions { file: &rust.source.path, excesses: Vec::new() };
    functions.visit_file(&rust.syntax);
    functions.excesses
}

struct Functions<'a> {
    file: &'a str,
    excesses: Vec<Excess>,
}

impl Functions<'_> {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let start = signature.fn_token.span.start().line;
        let lines = block.brace_token.span.close().end().line - start + 1;
        if lines > FUNCTION {
            self.excesses.push(Excess {
                key: format!("{} {}", self.file, signature.ident),
                file: self.file.to_owned(),
                line: start,
                lines,
                limit: FUNCTION,
            });
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// Holds the excesses against the ratchet file.
pub fn hold(excesses: &[Excess], ratchet: Option<&Source>) -> Result<Vec<Finding>> {
    let mut allowed = match ratchet {
        Some(source) => read(source)?,
        None => BTreeMap::new(),
    };
    let mut findings = Vec::new();
    for excess in excesses {
        let Excess { key, file, line, lines, limit } = excess;
        let message = match allowed.remove(key) {
            Some(known) if known == *lines => continue,
            Some(known) if known < *lines => {
                format!("{key}: {lines} lines, which may only shrink from {known}; split it")
            }
            Some(_) => format!("{key} has shrunk: set it to {lines} in {RATCHET}"),
            None => format!("{key}: {lines} lines, more than {limit}; split it"),
        };
        findings.push(Finding { file: file.clone(), line: *line, message });
    }
    for key in allowed.keys() {
        let message = format!("{key} is within its limit, or gone: take it out");
        findings.push(Finding { file: RATCHET.to_owned(), line: 1, message });
    }
    Ok(findings)
}

fn read(source: &Source) -> Result<BTreeMap<String, usize>> {
    let wrong = |what: String| Error::Ratchet { path: source.path.clone().into(), what };
    let table: toml::Table = source.text.parse().map_err(|e: toml::de::Error| wrong(e.to_string()))?;
    table
        .into_iter()
        .map(|(key, value)| match value.as_integer().and_then(|n| usize::try_from(n).ok()) {
            Some(lines) => Ok((key, lines)),
            None => Err(wrong(format!("`{key}` should be a number of lines"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::planted;

    fn long_function(lines: usize) -> String {
        // Braces in strings and comments are no braces.
        let body = "    let _ = \"}\"; // }\n".repeat(lines - 2);
        format!("//! A module.\n\nimpl S {{\nfn long() {{\n{body}}}\n}}\n")
    }

    #[test]
    fn long_functions_are_found() {
        assert_eq!(planted("crates/gguf/src/a.rs", &long_function(70)), [] as [String; 0]);
        let found = planted("crates/gguf/src/a.rs", &long_function(71));
        assert_eq!(found, ["4: crates/gguf/src/a.rs long: 71 lines, more than 70; split it"]);
    }

    #[test]
    fn long_files_are_found() {
        for path in ["crates/backend/src/a.metal", "crates/backend/src/a.cu", "crates/xtask/a.py"] {
            assert_eq!(planted(path, &"\n".repeat(600)), [] as [String; 0]);
            assert!(planted(path, &"\n".repeat(601))[0].contains("601 lines, more than 600"));
        }
        assert_eq!(planted("docs/a.md", &"\n".repeat(601)), [] as [String; 0]);
    }

    #[test]
    fn excesses_only_shrink() {
        let excess = |lines| Excess { key: "a.rs".into(), file: "a.rs".into(), line: 1, lines, limit: 600 };
        let ratchet = Source { path: RATCHET.into(), text: "\"a.rs\" = 650\n".into() };
        let message = |excesses: &[Excess]| {
            let findings = hold(excesses, Some(&ratchet)).expect("valid");
            findings.into_iter().map(|f| f.message).collect::<String>()
        };
        assert_eq!(message(&[excess(650)]), "");
        assert!(message(&[excess(651)]).contains("may only shrink from 650"));
        assert!(message(&[excess(640)]).contains("set it to 640"));
        assert!(message(&[]).contains("take it out"));
        let wrong = Source { path: RATCHET.into(), text: "\"a.rs\" = \"x\"\n".into() };
        assert!(hold(&[], Some(&wrong)).is_err());
    }
}
