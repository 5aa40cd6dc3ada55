//! `cargo xtask llama-server-tests`: the tests that llama.cpp's server has of
//! its own, against ours. What each should come to stands in a table beside
//! their plugin, with the reason where one does not apply.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::{Error, Result, at};
use crate::quarrel::Quarrel;
use crate::serving::Server;
use crate::{fixtures, models, workspace};

/// The requirements, the plugin and the table.
const OURS: &str = "crates/server/tests/llama_server";

/// Names by which the tests ask for a model; any model does.
const NAMES: [&str; 8] = [
    "tinyllama-2",
    "llama-test-model",
    "test",
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-instruct",
    "davinci-002",
    "gpt-4.1",
    "text-embedding-3-small",
];

/// What the plugin prints before each line of JSON.
const MARK: &str = "OUTCOME ";

/// A test as the plugin tells of it.
#[derive(Deserialize)]
struct Outcome {
    /// `unit/FILE.py::NAME[PARAMETERS]`
    test: String,
    /// `passed`, `failed` or `skipped`.
    outcome: String,
    reason: String,
}

/// A line of the table.
struct Row<'a> {
    /// `passes`, `partly` (with some of its parameters) or `absent`.
    result: &'a str,
    reason: &'a str,
}

/// How often a test passed, and how often not, over its parameters.
#[derive(Default)]
struct Count {
    passed: usize,
    not: usize,
    why: String,
}

/// Runs the tests and compares them with the table.
///
/// # Errors
/// What cannot be fetched or installed, a test that should pass and does not, one that is not in the table.
pub fn run() -> Result<()> {
    let root = workspace::root()?;
    let ours = root.join(OURS);
    let python = fixtures::environment("llama-server", &ours.join("requirements.txt"))?;
    let dir = fixtures::fetch(&[models::SMOLLM2, fixtures::LLAMA_SERVER_TESTS])?;
    let model = dir.join(models::SMOLLM2).display().to_string();
    let served: Vec<String> = NAMES.iter().map(|name| format!("{model}={name}")).collect();
    let options: Vec<&str> = served.iter().flat_map(|model| ["--model", model]).collect();
    let mut server = Server::ours(&root, "llama-server-tests", &Quarrel::dev(&root)?, &options, None)?;
    let text = test(&python, &dir.join(fixtures::LLAMA_SERVER_TESTS), &ours, &server)?;
    if !server.lives() {
        return Err(server.failure());
    }
    let table = ours.join("table.tsv");
    let table = std::fs::read_to_string(&table).map_err(at(&table))?;
    let missed = compare(&counts(&text), &rows(&table));
    if missed.is_empty() { Ok(()) } else { Err(Error::Missed(missed)) }
}

/// Runs pytest in a copy of the tests, in which they write; what it prints.
fn test(python: &Path, tests: &Path, ours: &Path, server: &Server) -> Result<String> {
    let temp = tempfile::tempdir().map_err(at(tests))?;
    let copy: PathBuf = temp.path().join("tests");
    workspace::run("copying the tests", Command::new("cp").arg("-r").arg(tests).arg(&copy))?;
    let port = server.address().rsplit(':').next().unwrap_or_default();
    // As llama.cpp runs them itself: those it calls slow fetch large models.
    let mut pytest = Command::new(python);
    pytest.current_dir(&copy).args([
        "-m",
        "pytest",
        "-p",
        "outcomes",
        "-s",
        "-q",
        "-m",
        "not slow",
        "--timeout",
        "60",
        "unit",
    ]);
    pytest.env("PYTHONPATH", ours).env("DEBUG_EXTERNAL", "1").env("PORT", port).env("NO_PROXY", "127.0.0.1");
    // Its status says that some failed, which the table knows better.
    let out = pytest.output().map_err(|source| Error::Start { program: "pytest".to_owned(), source })?;
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Adds tests up over their parameters.
fn counts(text: &str) -> BTreeMap<String, Count> {
    let mut counts: BTreeMap<String, Count> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(MARK)) {
        let Ok(Outcome { test, outcome, reason }) = serde_json::from_str(line) else { continue };
        let name = test.split('[').next().unwrap_or(&test).trim_start_matches("unit/").to_owned();
        let count = counts.entry(name).or_default();
        if outcome == "passed" {
            count.passed += 1;
        } else {
            count.not += 1;
            count.why = reason;
        }
    }
    counts
}

fn rows(table: &str) -> BTreeMap<&str, Row<'_>> {
    let row = |line| {
        let mut cells = str::split(line, '\t');
        let (name, result) = (cells.next()?, cells.next()?);
        Some((name, Row { result, reason: cells.next().unwrap_or_default() }))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Prints what each test came to; what is worse than the table says.
fn compare(counts: &BTreeMap<String, Count>, rows: &BTreeMap<&str, Row<'_>>) -> Vec<String> {
    let mut missed = Vec::new();
    let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, count) in counts {
        let result = match (count.passed, count.not) {
            (_, 0) => "passes",
            (0, _) => "absent",
            _ => "partly",
        };
        *totals.entry(result).or_default() += 1;
        let Some(row) = rows.get(name.as_str()) else {
            missed.push(format!("{name} is not in the table ({result}: {})", count.why));
            continue;
        };
        println!("{result:7} {name:70} {}", row.reason);
        match (row.result, result) {
            (expected, found) if expected == found => {}
            ("absent", _) | ("partly", "passes") => println!("        better than the table says: change it"),
            (expected, _) => missed.push(format!("{name}: {result}, not {expected}: {}", count.why)),
        }
    }
    let gone = rows.keys().filter(|name| !counts.contains_key(**name));
    missed.extend(gone.map(|name| format!("{name} did not run")));
    println!("{totals:?}");
    missed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_becomes_worse_is_missed() {
        let text = "noise\nOUTCOME {\"test\": \"unit/a.py::x[1]\", \"outcome\": \"passed\", \"reason\": \"\"}\n\
                    OUTCOME {\"test\": \"unit/a.py::x[2]\", \"outcome\": \"failed\", \"reason\": \"no\"}\n\
                    OUTCOME {\"test\": \"unit/a.py::y\", \"outcome\": \"passed\", \"reason\": \"\"}\n";
        let found = counts(text);
        let missed = |table: &str| compare(&found, &rows(table)).len();
        assert_eq!(missed("test\tresult\treason\na.py::x\tpartly\tw\na.py::y\tpasses\t"), 0);
        assert_eq!(missed("test\tresult\treason\na.py::x\tpasses\t\na.py::y\tabsent\tw"), 1);
        assert_eq!(missed("test\tresult\treason\na.py::x\tpartly\tw\na.py::z\tpasses\t"), 2);
    }
}
