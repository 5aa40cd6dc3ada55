//! `cargo xtask soak`: many clients for a long time, of which few behave, and
//! what is left of it: errors, memory, pages. At the end the server is killed
//! as a crash would, and must serve again at once.

mod acts;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{Error, Result};
use crate::figures::median;
use crate::quarrel::Quarrel;
use crate::serving::Server;
use crate::serving::http::{Client, metric};
use crate::{fixtures, models, workspace};
use acts::{Actor, Tally};

/// Most that memory may grow, as a part.
const GROWTH: f64 = 0.05;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How long a new server may take to its first answer.
const AGAIN: Duration = Duration::from_secs(10);

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Clients at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// What the clients do follows from this
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Use the `quarrel` that was built before
    #[arg(long)]
    skip_build: bool,
}

/// Lets clients loose on a server, then looks at what is left.
///
/// # Errors
/// An error nobody asked for, memory that grew, pages that did not return, a server that does not come back.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    let quarrel = Quarrel::release(&root, args.skip_build)?;
    let model = fixtures::fetch(&[models::SMOLLM2])?.join(models::SMOLLM2);
    let model = format!("{}=m", model.display());
    // A short context, so that every page has been used before memory is first looked at.
    let options = ["--model", &model, "--ctx", "1024", "--parallel", "16", "--max-requests", "128"];
    let mut server = Server::ours(&root, "soak", &quarrel, &options, None)?;
    let span = Duration::from_secs(args.minutes * 60);
    let (tally, memory) = storm(args, &server, span);
    let mut missed = tally.unasked.clone();
    println!("{} minutes, {} connections, seed {}:", args.minutes, args.connections, args.seed);
    println!("{tally}");
    flat(&memory, &mut missed);
    idle(&Client::new(&server.url, None), &mut missed)?;
    if !server.lives() {
        return Err(server.failure());
    }
    server.kill();
    let begun = Instant::now();
    let again = Server::ours(&root, "soak-again", &quarrel, &options, None)?;
    let answer =
        Client::new(&again.url, None).post("/v1/completions", &json!({"prompt": "Hi", "max_tokens": 1}))?;
    let took = begun.elapsed();
    println!(
        "after kill -9 the next server's first answer came within {:.2} s of its start",
        took.as_secs_f64()
    );
    if answer.status != 200 || took > AGAIN {
        missed.push(format!("a new server answered {} after {took:?}", answer.status));
    }
    if missed.is_empty() { Ok(()) } else { Err(Error::Missed(missed)) }
}

/// Runs the clients; what they saw, and memory from time to time.
fn storm(args: &Args, server: &Server, span: Duration) -> (Tally, Vec<u64>) {
    let end = Instant::now() + span;
    let over = AtomicBool::new(false);
    let mut memory = Vec::new();
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let over = &over;
        let actors: Vec<_> = (0..args.connections)
            .map(|i| {
                let mut actor = Actor::new(server, args.seed.wrapping_mul(1000).wrapping_add(i.into()));
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        actor.act();
                    }
                    actor.tally
                })
            })
            .collect();
        while Instant::now() < end {
            thread::sleep(LOOK);
            memory.extend(server.memory());
        }
        over.store(true, Ordering::Relaxed);
        for actor in actors {
            tally.add(actor.join().expect("clients do not panic"));
        }
    });
    (tally, memory)
}

/// Compares memory after the first tenth with that of the last.
fn flat(memory: &[u64], missed: &mut Vec<String>) {
    let tenth = (memory.len() / 10).max(1);
    let mib = |part: &[u64]| median(part.iter().map(|bytes| *bytes as f64 / 1_048_576.0)).unwrap_or_default();
    let Some(rest) = memory.get(tenth..).filter(|rest| rest.len() >= 2 * tenth) else {
        return println!("too few looks at memory to compare");
    };
    let (early, late) = (mib(&rest[..tenth]), mib(&rest[rest.len() - tenth..]));
    let most = rest.iter().max().map_or(0.0, |most| *most as f64 / 1_048_576.0);
    println!(
        "memory: {early:.1} MiB after a tenth of the time, {late:.1} MiB at the end, {most:.1} MiB at most"
    );
    if late > early * (1.0 + GROWTH) || most > early * (1.0 + GROWTH) {
        missed.push(format!("memory grew from {early:.1} to {late:.1} MiB, at most {most:.1}"));
    }
}

/// Everything has returned soon after the last client went.
fn idle(client: &Client, missed: &mut Vec<String>) -> Result<()> {
    let names = ["quarrel_kv_pages_used", "quarrel_requests_running", "quarrel_requests_waiting"];
    let begun = Instant::now();
    loop {
        let text = client.get("/metrics")?.body;
        let left: Vec<_> = names.iter().map(|name| metric(&text, name).unwrap_or(f64::NAN)).collect();
        if left.iter().all(|value| *value == 0.0) {
            println!("pages held, requests running and waiting: all 0 at the end");
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(30) {
            missed.push(format!("at the end {names:?} are {left:?}"));
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
}
