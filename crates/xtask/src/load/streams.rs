//! Replies read side by side, and when each of their tokens came.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::serving::http::{Client, Events};

/// The path that both servers have.
const PATH: &str = "/v1/completions";

/// How long replies run undisturbed before a long prompt arrives.
const STEADY: Duration = Duration::from_secs(4);

/// One request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The text to be continued.
    pub prompt: String,
    /// Tokens of the reply.
    pub reply: u32,
}

impl Ask {
    /// For a reply of exactly `reply` tokens.
    pub fn new(prompt: String, reply: u32) -> Self {
        Self { prompt, reply }
    }

    fn body(&self) -> Value {
        json!({
            "prompt": self.prompt, "max_tokens": self.reply, "temperature": 0, "ignore_eos": true,
            "stream": true, "stream_options": {"include_usage": true},
        })
    }

    fn send(&self, client: &Client) -> Result<Events> {
        client.stream(PATH, &self.body())?.map_err(|answer| Error::Request {
            path: PATH.to_owned(),
            what: format!("status {}: {}", answer.status, answer.body),
        })
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
struct Reply {
    sent: Instant,
    /// When each piece of text came.
    pieces: Vec<Instant>,
    prompt_tokens: u64,
    generated_tokens: u64,
}

fn read(client: &Client, ask: &Ask) -> Result<Reply> {
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
    let what = format!("{} tokens came of {}", reply.generated_tokens, ask.reply);
    Err(Error::Request { path: PATH.to_owned(), what })
}

fn has_text(event: &Value) -> bool {
    event["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty())
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
    let enough = AtomicBool::new(false);
    let enough = &enough;
    let (pieces, answer, sent) = thread::scope(|scope| {
        let watchers: Vec<_> =
            others.iter().map(|ask| scope.spawn(move || watch(client, ask, enough))).collect();
        // Their own prompts take a moment first.
        thread::sleep(STEADY + Duration::from_secs(1));
        let sent = Instant::now();
        let answer = read(client, long);
        enough.store(true, Ordering::Relaxed);
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
            } else if pair[1] < sent && pair[0] + STEADY > sent {
                all.steady.push(gap);
            }
        }
    }
    Ok(all)
}

/// Reads a reply until it is enough; when its pieces came.
fn watch(client: &Client, ask: &Ask, enough: &AtomicBool) -> Result<Vec<Instant>> {
    let mut pieces = Vec::new();
    for event in ask.send(client)? {
        let (at, event) = event?;
        if has_text(&event) {
            pieces.push(at);
        }
        if enough.load(Ordering::Relaxed) {
            return Ok(pieces);
        }
    }
    Err(Error::Request { path: PATH.to_owned(), what: "a reply ended too soon".to_owned() })
}
