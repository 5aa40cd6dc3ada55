//! What can stop a chore.

use std::path::{Path, PathBuf};

/// The result of anything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot run `{program}`: {source}; install it and try again")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program ended with an error.
    #[error("{what} failed: `{command}` ended with {status}\n{stderr}")]
    Program {
        /// The purpose, in words.
        what: String,
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// A check did not pass; its output says why.
    #[error("`{command}` ended with {status}")]
    Check {
        /// The command line.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
    },
    /// What was fetched is not what was asked for.
    #[error("what was fetched for {} has sha256 {found}, not {expected}: is the package index a true mirror?", path.display())]
    Hash {
        /// The file or directory.
        path: PathBuf,
        /// The known hash.
        expected: String,
        /// The hash found.
        found: String,
    },
    /// A program's output is not as expected.
    #[error("cannot read what `{program}` printed: {what}")]
    Output {
        /// The program.
        program: String,
        /// What is wrong in it.
        what: String,
    },
    /// A file that should be there is not.
    #[error("{} is missing: {advice}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// A model could not be generated.
    #[error("{}: {source}", path.display())]
    Generate {
        /// The file to be written.
        path: PathBuf,
        /// What is wrong.
        source: Box<model::Error>,
    },
    /// A server did not begin to serve, or ended.
    #[error("`{command}` does not serve; its log, {}, ends:\n{tail}", log.display())]
    Server {
        /// The command line.
        command: String,
        /// Where its standard error goes.
        log: PathBuf,
        /// The end of that.
        tail: String,
    },
    /// A request could not be made, or its answer not be read.
    #[error("{path}: {what}")]
    Request {
        /// The path asked.
        path: String,
        /// What went wrong.
        what: String,
    },
    /// What was measured or seen is not what must be.
    #[error("not as it must be: {}", .0.join("; "))]
    Missed(Vec<String>),
    /// Options that leave nothing to do.
    #[error("{0}")]
    Usage(&'static str),
    /// The code base breaks rules.
    #[error("{0} findings; each names its place and what to do")]
    Findings(usize),
    /// The list of known excesses is not what it should be.
    #[error("{}: {what}", path.display())]
    Ratchet {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        what: String,
    },
}

/// Attaches the path to an I/O error.
pub fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Io { path, source }
}
