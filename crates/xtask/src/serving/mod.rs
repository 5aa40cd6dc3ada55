//! Servers in processes of their own, asked over HTTP as anybody asks them.

pub mod http;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, at};
use crate::quarrel::Quarrel;

/// How long a server may take to begin.
const START: Duration = Duration::from_secs(60);

/// Lines of a log that an error quotes.
const TAIL: usize = 15;

/// A server that serves; it is killed when this goes.
pub struct Server {
    child: Child,
    /// Its address, without a slash at the end.
    pub url: String,
    /// What it was started with, to start it again.
    pub command: Vec<String>,
    log: PathBuf,
}

impl Server {
    /// Starts `quarrel serve` with `args` on a port of the system's choice; its
    /// log goes to `target/serving/NAME.log`. A `key` is the only one it takes.
    ///
    /// # Errors
    /// A program that cannot be started, or does not begin to serve.
    pub fn ours(
        root: &Path,
        name: &str,
        quarrel: &Quarrel,
        args: &[&str],
        key: Option<&str>,
    ) -> Result<Self> {
        let mut command = Command::new(&quarrel.binary);
        command.args(["serve", "--port", "0", "--backend", "cpu"]).args(args);
        if let Some(isa) = &quarrel.isa {
            command.args(["--isa", isa]);
        }
        if let Some(key) = key {
            command.env("QUARREL_API_KEYS", key);
        }
        Self::start(root, name, command, our_url)
    }

    /// Starts any server; `url` finds out from its log where it serves, once it does.
    ///
    /// # Errors
    /// As [`ours`](Self::ours).
    pub fn start(
        root: &Path,
        name: &str,
        mut command: Command,
        url: impl Fn(&str) -> Option<String>,
    ) -> Result<Self> {
        let dir = root.join("target/serving");
        std::fs::create_dir_all(&dir).map_err(at(&dir))?;
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).map_err(at(&log))?;
        let other = file.try_clone().map_err(at(&log))?;
        command.stdin(Stdio::null()).stdout(other).stderr(file);
        let words = || std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<String> = words().map(|word| word.to_string_lossy().into_owned()).collect();
        let child = command.spawn().map_err(|source| Error::Start { program: words[0].clone(), source })?;
        let mut server = Self { child, url: String::new(), command: words, log };
        let begun = Instant::now();
        loop {
            let text = std::fs::read(&server.log).map_err(at(&server.log))?;
            if let Some(url) = url(&String::from_utf8_lossy(&text)) {
                server.url = url;
                return Ok(server);
            }
            if !server.lives() || begun.elapsed() > START {
                return Err(server.failure());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether the process still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What to say when it does not serve.
    pub fn failure(&self) -> Error {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        Error::Server {
            command: self.command.join(" "),
            log: self.log.clone(),
            tail: lines[lines.len().saturating_sub(TAIL)..].join("\n"),
        }
    }

    /// Memory that the process holds, in bytes, where the system tells it as Linux does;
    /// the file's own pages not counted, which the system takes back as it likes.
    pub fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib << 10)
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Where it listens: what `url` has behind its scheme.
    pub fn address(&self) -> &str {
        self.url.split_once("://").map_or(&self.url, |(_, address)| address)
    }
}

/// Where our own server serves, which its log says once it does.
pub fn our_url(log: &str) -> Option<String> {
    let (_, url) = log.lines().find(|line| line.starts_with("serving "))?.rsplit_once(" at ")?;
    Some(url.to_owned())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
