//! What a client does: ask properly, leave, send nonsense, die.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::Result;
use crate::serving::Server;
use crate::serving::http::{Answer, Client};

const CHAT: &str = "/v1/chat/completions";

/// Errors that are kept in words.
const KEPT: usize = 10;

/// What clients did, and what nobody asked for.
#[derive(Debug, Default)]
pub struct Tally {
    /// How often each act was done.
    done: BTreeMap<&'static str, u64>,
    /// Tokens that came.
    tokens: u64,
    /// The first errors that no client asked for.
    pub unasked: Vec<String>,
}

impl Tally {
    /// Takes another client's.
    pub fn add(&mut self, other: Self) {
        other.done.into_iter().for_each(|(act, n)| *self.done.entry(act).or_default() += n);
        self.tokens += other.tokens;
        self.unasked.extend(other.unasked);
        self.unasked.truncate(KEPT);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let acts: Vec<_> = self.done.iter().map(|(act, n)| format!("{n} {act}")).collect();
        write!(
            f,
            "{}; {} tokens; {} errors nobody asked for",
            acts.join(", "),
            self.tokens,
            self.unasked.len()
        )
    }
}

/// A client.
pub struct Actor {
    client: Client,
    address: String,
    random: u64,
    /// What it did.
    pub tally: Tally,
}

impl Actor {
    /// One that acts as `seed` says.
    pub fn new(server: &Server, seed: u64) -> Self {
        Self {
            client: Client::new(&server.url, None),
            address: server.address().to_owned(),
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            tally: Tally::default(),
        }
    }

    /// Does one thing.
    pub fn act(&mut self) {
        let (name, done): (_, Result<()>) = match self.below(10) {
            0..=2 => ("whole replies", self.whole()),
            3..=4 => ("streams", self.stream(None)),
            5..=6 => {
                let pieces = self.below(20);
                ("streams left early", self.stream(Some(pieces)))
            }
            7 => ("malformed requests", self.malformed()),
            8 => ("clients killed while they sent", self.dies_sending()),
            _ => ("clients killed while they waited", self.dies_waiting()),
        };
        *self.tally.done.entry(name).or_default() += 1;
        if let Err(error) = done {
            self.complain(error.to_string());
        }
    }

    fn complain(&mut self, what: String) {
        if self.tally.unasked.len() < KEPT {
            self.tally.unasked.push(what);
        }
    }

    /// xorshift64.
    fn below(&mut self, n: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 16) % n
    }

    fn body(&mut self, stream: bool) -> Value {
        // Some share a beginning, some do not, and lengths differ.
        let length = [4, 16, 64, 250][self.below(4) as usize];
        let mut prompt = String::new();
        for _ in 0..length {
            prompt += ["the ", "river ", "sings ", "of ", "stone ", "and "][self.below(6) as usize];
        }
        let mut body = json!({
            "messages": [{"role": "system", "content": "You tell stories."}, {"role": "user", "content": prompt}],
            "max_tokens": 1 + self.below(48), "seed": self.below(1000), "stream": stream,
        });
        match self.below(6) {
            0 => body["response_format"] = json!({"type": "json_object"}),
            1 => (body["n"], body["logprobs"]) = (2.into(), true.into()),
            2 => body["stop"] = json!(["e", "stone"]),
            _ => {}
        }
        body
    }

    fn whole(&mut self) -> Result<()> {
        let body = self.body(false);
        let answer = self.client.post(CHAT, &body)?;
        self.expect(&answer, 200);
        self.tally.tokens += answer.json()["usage"]["completion_tokens"].as_u64().unwrap_or_default();
        Ok(())
    }

    /// Reads a stream, or so many pieces of it.
    fn stream(&mut self, pieces: Option<u64>) -> Result<()> {
        let body = self.body(true);
        let events = match self.client.stream(CHAT, &body)? {
            Ok(events) => events,
            Err(answer) => {
                self.expect(&answer, 200);
                return Ok(());
            }
        };
        let mut ended = false;
        for event in events.take(pieces.unwrap_or(u64::MAX) as usize) {
            let (_, event) = event?;
            if event["error"].is_object() {
                self.complain(event.to_string());
            }
            ended |= event["choices"][0]["finish_reason"].is_string();
            self.tally.tokens += u64::from(event["choices"][0]["delta"]["content"].is_string());
        }
        if pieces.is_none() && !ended {
            self.complain("a stream ended without a reason".to_owned());
        }
        Ok(())
    }

    fn malformed(&mut self) -> Result<()> {
        let bodies = [
            json!(null),
            json!({"messages": 7}),
            json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": -1}),
            json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": -1}),
            json!({"messages": [{"role": "user", "content": "Hi"}], "nope": 1}),
            json!({"messages": [{"role": "user", "content": "word ".repeat(5000)}]}),
            json!({"messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object", "unheardOf": 1}}}}),
        ];
        let body = &bodies[self.below(bodies.len() as u64) as usize];
        let answer = self.client.post(CHAT, body)?;
        self.expect(&answer, 400);
        Ok(())
    }

    fn expect(&mut self, answer: &Answer, status: u16) {
        if answer.status != status {
            self.complain(format!("status {} in place of {status}: {}", answer.status, answer.body));
        }
    }

    /// Goes away in the middle of a header or a body.
    fn dies_sending(&mut self) -> Result<()> {
        let body = self.body(false).to_string();
        let request = self.request(&body);
        let cut = self.below(request.len() as u64) as usize;
        if let Ok(mut connection) = TcpStream::connect(&self.address) {
            // A server that has heard enough may have closed: that is its right.
            let _ = connection.write_all(&request.as_bytes()[..cut]);
        }
        Ok(())
    }

    /// Sends all, and goes away before, or in the middle of, the answer.
    fn dies_waiting(&mut self) -> Result<()> {
        let body = self.body(true).to_string();
        let request = self.request(&body);
        if let Ok(mut connection) = TcpStream::connect(&self.address) {
            let _ = connection.write_all(request.as_bytes());
            let _ = connection.set_read_timeout(Some(Duration::from_millis(1 + self.below(500))));
            let _ = connection.read(&mut [0; 256]);
        }
        Ok(())
    }

    fn request(&self, body: &str) -> String {
        let (host, length) = (&self.address, body.len());
        format!("POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}")
    }
}
