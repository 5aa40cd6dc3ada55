//! Writing to standard output without dying of a closed pipe.

use std::io::{self, Write};

/// Whether an error is only that nobody reads our output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|io| io.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes and flushes, so that streamed text appears at once.
pub fn show(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a value as indented JSON and a newline.
pub fn show_json(value: &serde_json::Value) -> anyhow::Result<()> {
    Ok(show(&(serde_json::to_string_pretty(value)? + "\n"))?)
}

/// Writes a line to standard error. Nothing can be done when that fails, and a
/// program whose error stream is closed still does its work.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// An error and its causes on one line, each said once: some errors quote
/// their cause already.
pub fn explain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let inner = anyhow::anyhow!("no such file").context("x.gguf: no such file").context("cannot open");
        assert_eq!(explain(&inner), "cannot open: x.gguf: no such file");
    }
}
