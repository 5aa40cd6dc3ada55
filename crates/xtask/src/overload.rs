//! `cargo xtask overload`: ten times more requests at once than the server
//! takes. Each must be answered, and replies that run must keep their pace.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::quarrel::Quarrel;
use crate::serving::Server;
use crate::serving::http::Client;
use crate::{fixtures, models, workspace};

/// Requests that the server takes at once.
const FITS: usize = 32;

/// Requests that come at once, ten times as many.
const COME: usize = 10 * FITS;

/// Replies that run all the while, of 16 that run side by side.
const RUNNING: usize = 15;

/// Least part of their pace that replies keep.
const PACE: f64 = 0.4;

/// How long the pace is measured before.
const STEADY: Duration = Duration::from_secs(5);

const PATH: &str = "/v1/completions";

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Use the `quarrel` that was built before
    #[arg(long)]
    skip_build: bool,
}

/// Overloads a server.
///
/// # Errors
/// A request that gets no answer or another than 200, 429 or 503; replies that fell behind.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    let quarrel = Quarrel::release(&root, args.skip_build)?;
    let model = fixtures::fetch(&[models::SMOLLM2])?.join(models::SMOLLM2);
    let model = format!("{}=m", model.display());
    let fits = FITS.to_string();
    let options = ["--model", &model, "--ctx", "8192", "--parallel", "16", "--max-requests", &fits];
    let mut server = Server::ours(&root, "overload", &quarrel, &options, None)?;
    let client = &Client::new(&server.url, None);
    let (tokens, enough) = (&AtomicU64::new(0), &AtomicBool::new(false));
    let mut missed = Vec::new();
    thread::scope(|scope| {
        let running: Vec<_> =
            (0..RUNNING).map(|i| scope.spawn(move || reply(client, i, tokens, enough))).collect();
        // Their own prompts take a moment first.
        thread::sleep(Duration::from_secs(1));
        let pace = |begun: Instant, before: u64| {
            (tokens.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
        };
        let (begun, before) = (Instant::now(), tokens.load(Ordering::Relaxed));
        thread::sleep(STEADY);
        let steady = pace(begun, before);
        let (begun, before) = (Instant::now(), tokens.load(Ordering::Relaxed));
        let come: Vec<_> = (0..COME).map(|i| scope.spawn(move || one(client, i))).collect();
        let answers: Vec<_> = come.into_iter().map(|one| one.join().expect("clients do not panic")).collect();
        let (took, during) = (begun.elapsed(), pace(begun, before));
        enough.store(true, Ordering::Relaxed);
        for running in running {
            if let Err(error) = running.join().expect("clients do not panic") {
                missed.push(format!("a running reply: {error}"));
            }
        }
        judge(&answers, took, &mut missed);
        println!(
            "{RUNNING} replies that ran before: {steady:.0} tokens/s together before, {during:.0} meanwhile \
             ({:.0} %)",
            during / steady * 100.0
        );
        if during < steady * PACE {
            missed.push(format!("running replies fell from {steady:.0} to {during:.0} tokens/s"));
        }
    });
    if !server.lives() {
        return Err(server.failure());
    }
    if missed.is_empty() { Ok(()) } else { Err(Error::Missed(missed)) }
}

fn body(prompt: String, tokens: u32, stream: bool) -> Value {
    json!({"prompt": prompt, "max_tokens": tokens, "ignore_eos": true, "temperature": 0, "stream": stream})
}

/// Reads a long reply until it is enough, counting its pieces.
fn reply(client: &Client, i: usize, tokens: &AtomicU64, enough: &AtomicBool) -> Result<()> {
    let failed = |what: String| Error::Request { path: PATH.to_owned(), what };
    let asked = client.stream(PATH, &body(format!("{i}. Once upon a time"), 7000, true))?;
    for event in asked.map_err(|answer| failed(format!("status {}", answer.status)))? {
        let (_, event) = event?;
        if event["error"].is_object() {
            return Err(failed(event.to_string()));
        }
        tokens.fetch_add(1, Ordering::Relaxed);
        if enough.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    Err(failed("ended too soon".to_owned()))
}

/// One of the many; its status and how long it took.
fn one(client: &Client, i: usize) -> Result<(u16, Duration)> {
    let begun = Instant::now();
    let answer =
        client.post(PATH, &body(format!("Question {i}: what is the capital of France?"), 8, false))?;
    Ok((answer.status, begun.elapsed()))
}

fn judge(answers: &[Result<(u16, Duration)>], took: Duration, missed: &mut Vec<String>) {
    let of = |status: u16| answers.iter().flatten().filter(move |(s, _)| *s == status);
    let slowest = |status| of(status).map(|(_, took)| took.as_secs_f64()).fold(0.0, f64::max);
    println!("{COME} requests at once where {FITS} fit, all over after {:.1} s:", took.as_secs_f64());
    for status in [200, 429, 503] {
        println!("status {status}: {} answers, the last after {:.2} s", of(status).count(), slowest(status));
    }
    for answer in answers {
        match answer {
            Ok((200 | 429 | 503, _)) => {}
            Ok((status, _)) => missed.push(format!("status {status}")),
            Err(error) => missed.push(error.to_string()),
        }
    }
    missed.truncate(10);
}
