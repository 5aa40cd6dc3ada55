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
