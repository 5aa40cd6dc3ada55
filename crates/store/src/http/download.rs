//! Downloading one large file: resumed, repeated with back-off, checked by size and hash.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::client::{Reply, transport_error};
use super::{Auth, Client, Request, Url};
use crate::config::Retry;
use crate::{Digest, Error, Event, Progress, Result};

/// Between two progress events of one file.
const EVENT_INTERVAL: Duration = Duration::from_millis(100);

/// What to download and how to know that it is right.
#[derive(Debug, Clone)]
pub(crate) struct Download<'a> {
    pub(crate) url: &'a Url,
    pub(crate) auth: Option<&'a Auth>,
    /// Without it a partial file cannot be trusted, and the download starts from zero.
    pub(crate) sha256: Option<Digest>,
    /// The exact size, where known.
    pub(crate) bytes: Option<u64>,
    /// No more than this is written, whatever the server sends.
    pub(crate) max_bytes: u64,
    /// What to call it in events, and its place in the pull.
    pub(crate) label: &'a str,
    pub(crate) index: usize,
    pub(crate) count: usize,
}

/// Downloads into `part`, continuing what is there, and checks the result. On any error but a wrong
/// hash or size, `part` is kept for the next attempt.
pub(crate) fn download(
    client: &Client,
    wanted: &Download<'_>,
    part: &Path,
    retry: Retry,
    progress: &mut dyn Progress,
) -> Result<Digest> {
    let mut transfer = Transfer::open(wanted, part)?;
    let resumed = transfer.done > 0;
    transfer.run(client, retry, progress)?;
    match transfer.check() {
        // What an earlier run left may have been of another version of the file.
        Err(Error::HashMismatch { .. } | Error::SizeMismatch { .. }) if resumed => {
            let mut transfer = Transfer::open(wanted, part)?;
            transfer.run(client, retry, progress)?;
            transfer.check()
        }
        checked => checked,
    }
}

/// Checks a file that should already be right. Reports it as if it had just arrived.
pub(crate) fn verify(wanted: &Download<'_>, path: &Path, progress: &mut dyn Progress) -> Result<Digest> {
    let transfer = Transfer::open(wanted, path)?;
    transfer.report(progress);
    transfer.check()
}

/// A file under way. `done`, `hasher` and the file's length always agree.
struct Transfer<'a> {
    wanted: &'a Download<'a>,
    part: &'a Path,
    file: File,
    hasher: Sha256,
    done: u64,
    total: Option<u64>,
}

impl<'a> Transfer<'a> {
    fn open(wanted: &'a Download<'a>, part: &'a Path) -> Result<Self> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(part);
        let file = options.map_err(|e| Error::io("write", part, e))?;
        let mut transfer =
            Transfer { wanted, part, file, hasher: Sha256::new(), done: 0, total: wanted.bytes };
        let length = transfer.file.metadata().map_err(|e| Error::io("read", part, e))?.len();
        let usable = wanted.sha256.is_some() && length <= wanted.bytes.unwrap_or(wanted.max_bytes);
        match length {
            0 => {}
            _ if usable => transfer.hash_existing(length)?,
            _ => transfer.restart()?,
        }
        Ok(transfer)
    }

    /// Takes the file's first `length` bytes into account; the file may not be one that ends.
    fn hash_existing(&mut self, length: u64) -> Result<()> {
        let mut existing = (&self.file).take(length);
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = existing.read(&mut buffer).map_err(|e| Error::io("read", self.part, e))?;
            if n == 0 {
                return Ok(());
            }
            self.hasher.update(&buffer[..n]);
            self.done += n as u64;
        }
    }

    /// Forgets everything received.
    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|e| Error::io("write", self.part, e))?;
        self.file.seek(SeekFrom::Start(0)).map_err(|e| Error::io("write", self.part, e))?;
        self.hasher = Sha256::new();
        self.done = 0;
        Ok(())
    }

    /// Requests and receives until the file is complete, repeating what fails in passing.
    fn run(&mut self, client: &Client, retry: Retry, progress: &mut dyn Progress) -> Result<()> {
        let mut backoff = Backoff::new(retry);
        self.report(progress);
        while self.wanted.bytes != Some(self.done) {
            let before = self.done;
            match self.attempt(client, progress) {
                Ok(()) => break,
                Err(error) => {
                    if self.done > before {
                        backoff = Backoff::new(retry);
                    }
                    backoff.pause(error, self.wanted.label, progress)?;
                }
            }
        }
        self.report(progress);
        Ok(())
    }

    /// One request for what is missing.
    fn attempt(&mut self, client: &Client, progress: &mut dyn Progress) -> Result<()> {
        let Download { url, auth, .. } = *self.wanted;
        let mut reply = client.get(&Request { url, auth, from: self.done })?;
        if reply.status() == 416 {
            return self.past_the_end(&reply);
        }
        self.total = match reply.status() {
            206 => Some(self.continued(&reply)?),
            _ => {
                if self.done > 0 {
                    self.restart()?; // the server ignored the range and sends everything
                }
                reply.header("content-length").and_then(|n| n.parse().ok()).or(self.wanted.bytes)
            }
        };
        let limit = self.wanted.bytes.unwrap_or(self.wanted.max_bytes);
        if self.total.is_some_and(|total| total > limit) {
            return Err(self.too_long(&reply, limit));
        }
        self.receive(&mut reply, limit, progress)
    }

    /// Checks that a partial answer continues where the file ends; returns the file's size.
    fn continued(&self, reply: &Reply) -> Result<u64> {
        let range = reply.header("content-range").unwrap_or_default();
        let parsed = range.strip_prefix("bytes ").and_then(|r| r.split_once('/'));
        let first = parsed.and_then(|(span, _)| span.split_once('-')?.0.parse::<u64>().ok());
        let total = parsed.and_then(|(_, total)| total.parse::<u64>().ok());
        match (first, total) {
            (Some(first), Some(total)) if first == self.done => Ok(total),
            _ => Err(Error::BadReply {
                url: reply.url.to_string(),
                reason: format!("asked for bytes from {}, got {range:?}", self.done),
            }),
        }
    }

    /// The server has nothing beyond what is here: complete, or not the file it was.
    fn past_the_end(&mut self, reply: &Reply) -> Result<()> {
        let total = reply.header("content-range").and_then(|r| r.strip_prefix("bytes */")?.parse().ok());
        if total == Some(self.done) {
            return Ok(());
        }
        self.restart()?;
        Err(Error::Network { url: reply.url.to_string(), reason: "the file has become shorter".into() })
    }

    /// Streams the body to the file.
    fn receive(&mut self, reply: &mut Reply, limit: u64, progress: &mut dyn Progress) -> Result<()> {
        let url = reply.url.clone();
        let mut buffer = vec![0; 1 << 17];
        let mut last_event = Instant::now();
        let mut body = reply.body();
        loop {
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            let n = body.read(&mut buffer).map_err(|error| transport_error(&url, error.into()))?;
            if n == 0 {
                break;
            }
            if self.done + n as u64 > limit {
                let reason = format!("sends more than the expected {limit} bytes");
                return Err(Error::BadReply { url: url.to_string(), reason });
            }
            self.file.write_all(&buffer[..n]).map_err(|e| Error::io("write", self.part, e))?;
            self.hasher.update(&buffer[..n]);
            self.done += n as u64;
            if last_event.elapsed() >= EVENT_INTERVAL {
                self.report(progress);
                last_event = Instant::now();
            }
        }
        match self.total {
            Some(total) if self.done < total => Err(Error::Network {
                url: url.to_string(),
                reason: format!("the connection ended after {} of {total} bytes", self.done),
            }),
            _ => Ok(()),
        }
    }

    fn too_long(&self, reply: &Reply, limit: u64) -> Error {
        let actual = self.total.unwrap_or_default();
        let reason = format!("offers {actual} bytes where at most {limit} are expected");
        Error::BadReply { url: reply.url.to_string(), reason }
    }

    /// Size and hash; a file that fails is removed.
    fn check(self) -> Result<Digest> {
        let Download { sha256, bytes, label, .. } = *self.wanted;
        let actual = Digest::finish(self.hasher);
        let what = label.to_owned();
        let wrong = match (bytes, sha256) {
            (Some(expected), _) if expected != self.done => {
                Some(Error::SizeMismatch { what, expected, actual: self.done })
            }
            (_, Some(expected)) if expected != actual => Some(Error::HashMismatch { what, expected, actual }),
            _ => None,
        };
        if let Some(error) = wrong {
            drop(self.file);
            std::fs::remove_file(self.part).map_err(|e| Error::io("remove", self.part, e))?;
            return Err(error);
        }
        self.file.sync_all().map_err(|e| Error::io("write", self.part, e))?;
        Ok(actual)
    }

    fn report(&self, progress: &mut dyn Progress) {
        let Download { label: file, index, count, sha256, .. } = *self.wanted;
        progress.event(&Event::Bytes { file, index, count, done: self.done, total: self.total, sha256 });
    }
}

/// Failures in a row and the growing wait between them.
pub(crate) struct Backoff {
    retry: Retry,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(retry: Retry) -> Self {
        Backoff { retry, failures: 0 }
    }

    /// Waits before the next attempt, or returns the error if there should be none.
    pub(crate) fn pause(&mut self, error: Error, label: &str, progress: &mut dyn Progress) -> Result<()> {
        self.failures += 1;
        let asked = match &error {
            Error::RateLimited { retry_after, .. } => *retry_after,
            _ => None,
        };
        let Retry { attempts, first_wait, longest_wait } = self.retry;
        if !error.is_passing() || self.failures >= attempts || asked.is_some_and(|wait| wait > longest_wait) {
            return Err(error);
        }
        let doubled = first_wait.saturating_mul(1 << (self.failures - 1).min(16));
        let wait = asked.unwrap_or(doubled).min(longest_wait);
        progress.event(&Event::Retry { file: label, reason: &error.to_string(), wait });
        sleep(wait, progress)
    }
}

/// Sleeps in slices, so that a cancel is noticed.
fn sleep(wait: Duration, progress: &dyn Progress) -> Result<()> {
    let until = Instant::now() + wait;
    loop {
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}
