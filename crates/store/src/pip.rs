//! Asking pip where a package's wheel lies, and, where only pip can get it, having pip fetch it.
//!
//! pip knows the user's index, mirrors, proxies and credentials; we do not. Nothing is installed:
//! `--dry-run` stops before that, and wheels only (`--only-binary :all:`) means no package's code runs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

use crate::error::brief;
use crate::http::Url;
use crate::{Digest, Error, Result};

/// What pip says of one package.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    /// Fetch it there; it has this hash.
    At { url: Url, sha256: Digest },
    /// pip has to fetch it: it is too old to tell (before 22.2), or the address is none of http(s).
    OnlyByPip,
}

/// The parts we need of `pip install --report` (pip's "installation report", version 1).
#[derive(Deserialize)]
struct Report {
    install: Vec<Installed>,
}

#[derive(Deserialize)]
struct Installed {
    download_info: DownloadInfo,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
    archive_info: Option<ArchiveInfo>,
}

#[derive(Deserialize)]
struct ArchiveInfo {
    /// `sha256=<hex>`; the form of older pips.
    hash: Option<String>,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

/// Where the wheels of `packages` (each `NAME==VERSION`) lie, in the same order.
pub(crate) fn locate(python: &Path, packages: &[&str]) -> Result<Vec<Found>> {
    let report = ["install", "--dry-run", "--ignore-installed", "--report", "-"];
    // fast-deps reads the metadata by range requests where the index does not serve it apart; else pip
    // would fetch the whole wheel only to read it. Recent pips then fetch nothing large; before 25.3
    // pip fetches the wheel even so, and keeps it nowhere (--no-cache-dir). A pip that does not know
    // the feature refuses it.
    let fast = run(python, packages, &report, &["--use-feature=fast-deps".as_ref()])?;
    let output = if fast.status.success() { fast } else { run(python, packages, &report, &[])? };
    if output.status.success() {
        return parse_report(packages, &output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    if message.contains("no such option: --report") || message.contains("no such option: --dry-run") {
        return Ok(packages.iter().map(|_| Found::OnlyByPip).collect());
    }
    Err(failure(python, &packages.join(", "), &message))
}

/// Has pip download the wheel into `dir` (which is emptied first) and returns its path. pip checks it
/// against the index's hash.
pub(crate) fn fetch(python: &Path, package: &str, dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(|e| Error::io("remove", dir, e))?;
    }
    crate::cache::create_dir(dir)?;
    let output = run(python, &[package], &["download"], &["--dest".as_ref(), dir.as_os_str()])?;
    if !output.status.success() {
        return Err(failure(python, package, &String::from_utf8_lossy(&output.stderr)));
    }
    let files = std::fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?;
    let mut wheels =
        files.filter_map(|f| Some(f.ok()?.path())).filter(|p| p.extension() == Some("whl".as_ref()));
    wheels
        .next()
        .ok_or_else(|| Error::Pip { package: package.into(), reason: "it downloaded no wheel".into() })
}

fn run(python: &Path, packages: &[&str], verb: &[&str], extra: &[&OsStr]) -> Result<Output> {
    Command::new(python)
        .args(["-m", "pip"])
        .args(verb)
        .args(["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"])
        .args(["--no-deps", "--only-binary", ":all:"])
        .args(extra)
        .args(packages)
        // Guards of real installs that some systems configure; nothing is installed here.
        .env("PIP_BREAK_SYSTEM_PACKAGES", "1")
        .env("PIP_REQUIRE_VIRTUALENV", "0")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::NoPython { python: python.to_owned(), source })
}

fn parse_report(packages: &[&str], json: &[u8]) -> Result<Vec<Found>> {
    let bad = |reason: String| Error::Pip { package: packages.join(", "), reason };
    let report: Report = serde_json::from_slice(json)
        .map_err(|e| bad(brief(&format!("its report is not as expected: {e}"))))?;
    let found = packages.iter().map(|package| {
        let name = normalised(package.split("==").next().unwrap_or(package));
        let installed = report.install.iter().find(|i| normalised(&i.metadata.name) == name);
        found(&installed.ok_or_else(|| bad(format!("its report lacks {package}")))?.download_info, &bad)
    });
    found.collect()
}

fn found(info: &DownloadInfo, bad: &dyn Fn(String) -> Error) -> Result<Found> {
    if !info.url.starts_with("http://") && !info.url.starts_with("https://") {
        return Ok(Found::OnlyByPip); // a local wheel directory (find-links)
    }
    let sha256 = info.archive_info.as_ref().and_then(|archive| {
        let old = || archive.hash.as_deref()?.strip_prefix("sha256=");
        archive.hashes.get("sha256").map(String::as_str).or_else(old)
    });
    let Some(sha256) = sha256 else { return Ok(Found::OnlyByPip) };
    let sha256 = sha256.parse().map_err(|reason: &str| bad(reason.to_owned()))?;
    Ok(Found::At { url: Url::parse(&info.url)?, sha256 })
}

/// A project's name as indexes compare it (PEP 503).
fn normalised(name: &str) -> String {
    let words = name.split(['-', '_', '.']).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

/// The error behind pip's messages.
fn failure(python: &Path, package: &str, message: &str) -> Error {
    if message.contains("No module named pip") {
        return Error::NoPip { python: python.to_owned() };
    }
    // pip ends by saying that there is no such package; that nobody answered stands in its warnings.
    if message.contains("after connection broken by") {
        let reason = "the package index did not answer; is the network, or pip's index setting, right?";
        return Error::Pip { package: package.to_owned(), reason: reason.to_owned() };
    }
    let lines =
        message.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("WARNING"));
    let tail: Vec<&str> = lines.collect();
    let tail = tail[tail.len().saturating_sub(3)..].join(" ");
    let reason = if tail.is_empty() { "no message".to_owned() } else { brief(&without_credentials(&tail)) };
    Error::Pip { package: package.to_owned(), reason }
}

/// Drops `user:password@` from every address in a message.
fn without_credentials(message: &str) -> String {
    let words = message.split(' ').map(|word| match (word.find("://"), word.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}{}", &word[..scheme + 3], &word[at + 1..]),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Vec<Found>> {
        parse_report(&["b-c==1", "a==2"], json.as_bytes())
    }

    #[test]
    fn an_index_that_does_not_answer_is_named_as_the_cause() {
        let message = "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /a/\n\
                       ERROR: Could not find a version that satisfies the requirement a==1 (from versions: none)\n";
        let error = failure(Path::new("python3"), "a==1", message).to_string();
        assert!(error.contains("did not answer") && !error.contains("versions"), "{error}");
    }

    #[test]
    fn reports_of_old_and_new_pips() {
        let [a, b] = ["a", "b"].map(|digit| digit.repeat(64));
        let package = |name: &str, hash: &str| {
            format!(
                r#"{{"download_info":{{"url":"https://u:p@h/{name}.whl","archive_info":
                {{"hash":"sha256={hash}","hashes":{{"sha256":"{hash}"}}}}}},"metadata":{{"name":"{name}"}}}}"#
            )
        };
        let new = format!(r#"{{"version":"1","install":[{},{}]}}"#, package("A", &a), package("B_c", &b));
        let old = new.replace(&format!(r#","hashes":{{"sha256":"{a}"}}"#), "");
        for json in [new, old] {
            match &parse(&json).unwrap()[..] {
                [Found::At { url, sha256 }, Found::At { sha256: second, .. }] => {
                    assert_eq!((sha256.to_string(), second.to_string()), (b.clone(), a.clone()));
                    assert_eq!(url.to_request(), "https://h/B_c.whl");
                }
                other => panic!("{other:?}"),
            }
            let local = json.replace("https://u:p@h", "file:///wheels");
            assert!(matches!(parse(&local).unwrap()[..], [Found::OnlyByPip, Found::OnlyByPip]));
            let evil = json.replace("https://u:p@h", r"https://h\\evil");
            assert!(matches!(parse(&evil), Err(Error::BadUrl { .. })));
            let bad_hash = json.replace(&b, "../../x");
            assert!(matches!(parse(&bad_hash), Err(Error::Pip { .. })));
        }
        for bad in ["", "{}", r#"{"install":[]}"#] {
            assert!(matches!(parse(bad), Err(Error::Pip { .. })), "{bad}");
        }
    }

    #[test]
    fn messages_hide_credentials() {
        let message = "WARNING: w\nERROR: no x at https://me:secret@h/simple ok\n";
        let shown = failure("py".as_ref(), "x==1", message).to_string();
        assert!(shown.contains("https://h/simple ok") && !shown.contains("secret"), "{shown}");
        let none = failure("py".as_ref(), "x", "/usr/bin/python3: No module named pip");
        assert!(matches!(none, Error::NoPip { .. }));
    }
}
