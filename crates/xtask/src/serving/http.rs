//! Requests, and answers that come piece by piece.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::Agent;

use crate::error::{Error, Result};

/// Longest time that any answer may take: a hang is an error.
const PATIENCE: Duration = Duration::from_secs(300);

/// Makes requests to one server; each on a connection of its own unless one is free.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    url: String,
    key: Option<String>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// An answer of server-sent events, being read.
pub struct Events {
    lines: std::io::Lines<BufReader<ureq::BodyReader<'static>>>,
    path: String,
}

impl Client {
    /// For the server at `url`.
    pub fn new(url: &str, key: Option<&str>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            .build();
        Self { agent: config.into(), url: url.to_owned(), key: key.map(str::to_owned) }
    }

    /// Reads `path`.
    ///
    /// # Errors
    /// No answer, or none in time.
    pub fn get(&self, path: &str) -> Result<Answer> {
        let request = self.agent.get(format!("{}{path}", self.url));
        let request =
            self.key.iter().fold(request, |r, key| r.header("Authorization", format!("Bearer {key}")));
        read(path, request.call())
    }

    /// Asks `path` with a JSON body.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        read(path, self.send(path, body))
    }

    /// Asks `path` for a stream; an answer that is none comes whole.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn stream(&self, path: &str, body: &Value) -> Result<Result<Events, Answer>> {
        let answer = self.send(path, body).map_err(|error| failure(path, &error))?;
        if answer.status() != 200 {
            return read(path, Ok(answer)).map(Err);
        }
        let reader = BufReader::new(answer.into_body().into_reader());
        Ok(Ok(Events { lines: reader.lines(), path: path.to_owned() }))
    }

    fn send(&self, path: &str, body: &Value) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let request =
            self.key.iter().fold(request, |r, key| r.header("Authorization", format!("Bearer {key}")));
        request.header("Content-Type", "application/json").send(body.to_string())
    }
}

fn read(path: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer> {
    let mut answer = answer.map_err(|error| failure(path, &error))?;
    let body = answer.body_mut().read_to_string().map_err(|error| failure(path, &error))?;
    Ok(Answer { status: answer.status().as_u16(), body })
}

fn failure(path: &str, error: &dyn std::fmt::Display) -> Error {
    Error::Request { path: path.to_owned(), what: error.to_string() }
}

impl Answer {
    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Iterator for Events {
    /// When an event came, and its JSON.
    type Item = Result<(Instant, Value)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = match self.lines.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(failure(&self.path, &error))),
            };
            let Some(data) = line.strip_prefix("data:") else { continue };
            if data.trim() == "[DONE]" {
                return None;
            }
            let event = serde_json::from_str(data).map_err(|error| failure(&self.path, &error));
            return Some(event.map(|event| (Instant::now(), event)));
        }
    }
}

/// A figure of Prometheus' text format, summed over its labels.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let own = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    text.lines().filter(own).map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_over_labels() {
        let text = "# HELP pages x\npages{model=\"a b\"} 3\npages{model=\"b\"} 4.5\npages_more 100\n";
        assert_eq!(metric(text, "pages"), Some(7.5));
        assert_eq!(metric(text, "pages_more"), Some(100.0));
        assert_eq!(metric("pages x", "pages"), None);
    }
}
