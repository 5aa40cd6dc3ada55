//! Replies read side by side, and when each of their tokens came.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::serving::http::{Client, Events};

/// How long replies run undisturbed before a long prompt arrives.
const STEADY: Duration = Duration::from_secs(4);

/// How often it is looked whether all replies have begun.
const LOOK: Duration = Duration::from_millis(10);

/// One request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The text to be continued, or answered.
    pub prompt: String,
    /// Tokens of the reply.
    pub reply: u32,
    /// How replies are sampled; 0: the likeliest tokens.
    pub temperature: f64,
    /// The prompt is a turn of a conversation.
    chat: bool,
}

impl Ask {
    /// For a continuation of exactly `reply` tokens.
    pub fn new(prompt: String, reply: u32) -> Self {
        Self { prompt, reply, temperature: 0.0, chat: false }
    }

    /// For an answer of exactly `reply` tokens.
    pub fn chat(prompt: String, reply: u32, temperature: f64) -> Self {
        Self { prompt, reply, temperature, chat: true }
    }

    /// A path that all servers have.
    fn path(&self) -> &'static str {
        if self.chat { "/v1/chat/completions" } else { "/v1/completions" }
    }

    fn body(&self) -> Value {
        let mut body = json!({
            "max_tokens": self.reply, "temperature": self.temperature, "ignore_eos": true,
            "stream": true, "stream_options": {"include_usage": true},
        });
        if self.chat {
            body["messages"] = json!([{"role": "user", "content": self.prompt}]);
        } else {
            body["prompt"] = json!(self.prompt);
        }
        body
    }

    fn send(&self, client: &Client) -> Result<Events> {
        client
            .stream(self.path(), &self.body())?
            .map_err(|answer| self.failure(format!("status {}: {}", answer.status, answer.body)))
    }

    fn failure(&self, what: String) -> Error {
        Error::Request { path: self.path().to_owned(), what }
    }
}

/// What a load came to.
#[derive(Debug, Default)]
pub struct Load {
    /// From the first request to the last token, in seconds.
    pub seconds: f64,
    /// Tokens of all prompts.
    pub prompt_tokens: u64,
    /// Tokens of all replies.
    pub generated_tokens: u64,
    /// Seconds from each request to its first token.
    pub first_tokens: Vec<f64>,
    /// Seconds between neighbouring tokens of each reply.
    pub gaps: Vec<f64>,
}

impl Load {
    /// Prompt tokens and generated ones together.
    pub fn tokens_a_second(&self) -> f64 {
        (self.prompt_tokens + self.generated_tokens) as f64 / self.seconds
    }

    /// Generated ones alone.
    pub fn generated_a_second(&self) -> f64 {
        self.generated_tokens as f64 / self.seconds
    }

    fn add(&mut self, reply: Reply) {
        let first = reply.pieces.first().map(|first| (*first - reply.sent).as_secs_f64());
        self.first_tokens.extend(first);
        self.gaps.extend(gaps(&reply.pieces));
        self.prompt_tokens += reply.prompt_tokens;
        self.generated_tokens += reply.generated_tokens;
    }
}

/// Seconds between neighbours.
fn gaps(pieces: &[Instant]) -> Vec<f64> {
    pieces.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
}

/// A reply that was read to its end.
#[derive(Debug)]
pub struct Reply {
    /// When it was asked for.
    pub sent: Instant,
    /// When each piece of text came.
    pub pieces: Vec<Instant>,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the reply.
    pub generated_tokens: u64,
}

/// Reads a reply to its end.
///
/// # Errors
/// A request that fails, or a reply of another length.
pub fn read(client: &Client, ask: &Ask) -> Result<Reply> {
    let mut reply = Reply { sent: Instant::now(), pieces: Vec::new(), prompt_tokens: 0, generated_tokens: 0 };
    for event in ask.send(client)? {
        let (at, event) = event?;
        if has_text(&event) {
            reply.pieces.push(at);
        }
        if let Some(usage) = event["usage"].as_object() {
            reply.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or_default();
            reply.generated_tokens = usage["completion_tokens"].as_u64().unwrap_or_default();
        }
    }
    if reply.generated_tokens == u64::from(ask.reply) {
        return Ok(reply);
    }
    Err(ask.failure(format!("{} tokens came of {}", reply.generated_tokens, ask.reply)))
}

fn has_text(event: &Value) -> bool {
    let choice = &event["choices"][0];
    let text = choice["text"].as_str().or_else(|| choice["delta"]["content"].as_str());
    text.is_some_and(|text| !text.is_empty())
}

/// Runs streams side by side, the requests of each one after another.
///
/// # Errors
/// Any request that fails.
pub fn run_all(client: &Client, streams: &[Vec<Ask>]) -> Result<Load> {
    let begun = Instant::now();
    let replies: Vec<Result<Vec<Reply>>> = thread::scope(|scope| {
        let run = |asks: &'_ Vec<Ask>| asks.iter().map(|ask| read(client, ask)).collect();
        let readers: Vec<_> = streams.iter().map(|asks| scope.spawn(move || run(asks))).collect();
        readers.into_iter().map(|reader| reader.join().expect("reading does not panic")).collect()
    });
    let mut load = Load { seconds: begun.elapsed().as_secs_f64(), ..Load::default() };
    for replies in replies {
        replies?.into_iter().for_each(|reply| load.add(reply));
    }
    Ok(load)
}

/// Times between tokens before a long prompt and while it is computed.
#[derive(Debug, Default)]
pub struct Disturbed {
    /// Before.
    pub steady: Vec<f64>,
    /// From the request to its first token.
    pub during: Vec<f64>,
    /// How long that was, in seconds.
    pub first_token: f64,
    /// Tokens of the long prompt.
    pub prompt_tokens: u64,
}

/// Lets `others` run, asks `long`, and leaves the others once it is answered.
///
/// # Errors
/// Any request that fails, or an end that comes before.
pub fn disturbed(client: &Client, others: &[Ask], long: &Ask) -> Result<Disturbed> {
    let progress = &Progress::default();
    let (pieces, answer, sent) = thread::scope(|scope| {
        let watchers: Vec<_> =
            others.iter().map(|ask| scope.spawn(move || watch(client, ask, progress))).collect();
        // Their own prompts take a moment first. One that is over is an error, seen at the end.
        let over = || watchers.iter().any(thread::ScopedJoinHandle::is_finished);
        while progress.begun.load(Ordering::Relaxed) < others.len() && !over() {
            thread::sleep(LOOK);
        }
        thread::sleep(STEADY);
        let sent = Instant::now();
        let answer = read(client, long);
        progress.enough.store(true, Ordering::Relaxed);
        let pieces: Vec<_> =
            watchers.into_iter().map(|w| w.join().expect("reading does not panic")).collect();
        (pieces, answer, sent)
    });
    let answer = answer?;
    let end = answer.pieces.first().copied().unwrap_or_else(Instant::now);
    let first_token = (end - sent).as_secs_f64();
    let mut all = Disturbed { first_token, prompt_tokens: answer.prompt_tokens, ..Disturbed::default() };
    for pieces in pieces {
        for pair in pieces?.windows(2) {
            let gap = (pair[1] - pair[0]).as_secs_f64();
            if pair[1] >= sent && pair[0] <= end {
                all.during.push(gap);
            } else if pair[1] < sent && pair[0] + STEADY >= sent {
                all.steady.push(gap);
            }
        }
    }
    Ok(all)
}

/// What replies that are watched tell each other.
#[derive(Default)]
struct Progress {
    /// Replies whose first piece has come.
    begun: AtomicUsize,
    /// They may end.
    enough: AtomicBool,
}

/// Reads a reply until it is enough; when its pieces came.
fn watch(client: &Client, ask: &Ask, progress: &Progress) -> Result<Vec<Instant>> {
    let mut pieces = Vec::new();
    for event in ask.send(client)? {
        let (at, event) = event?;
        if has_text(&event) {
            progress.begun.fetch_add(usize::from(pieces.is_empty()), Ordering::Relaxed);
            pieces.push(at);
        }
        if progress.enough.load(Ordering::Relaxed) {
            return Ok(pieces);
        }
    }
    Err(ask.failure("a reply ended too soon".to_owned()))
}
