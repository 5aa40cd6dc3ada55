//! `cargo xtask server-load`: what `quarrel serve` does under load, beside
//! llama.cpp's server, and what a long prompt does to replies that are running.

mod prompts;
mod report;
pub mod streams;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::compare::llama_cpp;
use crate::error::{Error, Result, at};
use crate::quarrel::Quarrel;
use crate::serving::Server;
use crate::serving::http::Client;
use crate::{fixtures, models, workspace};
use prompts::Prompts;
use streams::{Ask, Load};

/// Tokens each reply has, whatever the model would rather.
const REPLY: u32 = 128;

/// Tokens of the prompt that arrives while others are answered, about; and of a prefix that comes twice.
const LONG: usize = 4000;
const PREFIX: usize = 2000;

/// Longest context of either server.
const CONTEXT: u32 = 8192;

/// How the peer's server was fastest under this load on the machine where
/// `docs/performance.md` has its figures; `--llama-args` tries others.
const PEER_OPTIONS: &str = "--flash-attn on --no-webui";

/// What the figures must reach.
mod bar {
    /// Tokens a second, ours to the peer's.
    pub const THROUGHPUT: f64 = 3.0;
    /// 99th percentile of the time between tokens while a long prompt arrives, to that before.
    pub const LONG_PROMPT: f64 = 2.5;
    /// Time to the first token of a prompt, to that of one whose prefix was there before.
    pub const PREFIX: f64 = 10.0;
}

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Replies that are generated side by side
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    streams: u32,
    /// How often each server is measured, in turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Requests of each stream in a round, one after another
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Threads of either server
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Use the `quarrel` that was built before
    #[arg(long)]
    skip_build: bool,
    /// Use this `quarrel`
    #[arg(long, value_name = "FILE", conflicts_with = "skip_build")]
    quarrel: Option<PathBuf>,
    /// Use this llama-server instead of building one
    #[arg(long, value_name = "FILE")]
    llama_server: Option<PathBuf>,
    /// Further options of llama-server
    #[arg(long, value_name = "OPTIONS", default_value = PEER_OPTIONS, allow_hyphen_values = true)]
    llama_args: String,
    /// Measure only ours
    #[arg(long)]
    only_ours: bool,
    /// Write the tables to this file too
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Starts both servers, measures, and prints Markdown.
///
/// # Errors
/// What cannot be built or started, requests that fail, and figures that miss their bar.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace::root()?;
    let dir = fixtures::fetch(&[models::SMOLLM2, fixtures::WIKITEXT])?;
    let model = dir.join(models::SMOLLM2);
    let text = dir.join(fixtures::WIKITEXT);
    let text = std::fs::read_to_string(&text).map_err(at(&text))?;
    let quarrel = match &args.quarrel {
        Some(binary) => Quarrel { binary: binary.clone(), isa: None },
        None => Quarrel::release(&root, args.skip_build)?,
    };
    let ours = start_ours(&root, args, &quarrel, &model)?;
    let peer = if args.only_ours { None } else { Some(start_peer(&root, args, &model)?) };
    let mut prompts = Prompts::new(&text);
    let mut page = report::Page::default();
    if let Some(peer) = &peer {
        throughput(args, &ours, peer, &mut prompts, &mut page)?;
    }
    // Nothing else may run beside what follows.
    drop(peer);
    long_prompt(args, &ours, &mut prompts, &mut page)?;
    prefix(args, &ours, &mut prompts, &mut page)?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let text = page.render(&words.join(" "));
    print!("{text}");
    if let Some(file) = &args.output {
        std::fs::write(file, text).map_err(at(file))?;
    }
    if page.missed.is_empty() { Ok(()) } else { Err(Error::Missed(page.missed)) }
}

fn start_ours(root: &Path, args: &Args, quarrel: &Quarrel, model: &Path) -> Result<Server> {
    let model = format!("{}=m", model.display());
    let [streams, threads, context] = [args.streams, args.threads, CONTEXT].map(|n| n.to_string());
    let options = ["--model", &model, "--parallel", &streams, "--threads", &threads, "--ctx", &context];
    Server::ours(root, "load-ours", quarrel, &options, None)
}

fn start_peer(root: &Path, args: &Args, model: &Path) -> Result<Server> {
    let program = match &args.llama_server {
        Some(program) => program.clone(),
        None => llama_cpp::build(root, &[llama_cpp::SERVER], None, args.skip_build)?
            .directory
            .join(llama_cpp::SERVER),
    };
    let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = free.map_err(|source| Error::Start { program: "a listener".to_owned(), source })?.port();
    let threads = args.threads.to_string();
    let mut command = Command::new(program);
    command.arg("--model").arg(model).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
    // It divides the context among its slots.
    let context = (args.streams * CONTEXT).to_string();
    command.args(["--parallel", &args.streams.to_string(), "--ctx-size", &context]);
    command.args(["--threads", &threads, "--threads-batch", &threads]);
    command.args(args.llama_args.split_whitespace());
    Server::start(root, "load-peer", command, |log| {
        log.contains("listening on").then(|| format!("http://127.0.0.1:{port}"))
    })
}

/// The same prompts to both in turn.
fn throughput(
    args: &Args,
    ours: &Server,
    peer: &Server,
    prompts: &mut Prompts<'_>,
    page: &mut report::Page,
) -> Result<()> {
    let clients = [Client::new(&ours.url, None), Client::new(&peer.url, None)];
    for client in &clients {
        streams::run_all(client, &[vec![Ask::new(prompts.next(64), 16)]])?;
    }
    let mut rounds = Vec::new();
    for round in 1..=args.rounds {
        let asks = prompts.mixed(args.streams as usize, args.requests as usize, REPLY);
        let ours = streams::run_all(&clients[0], &asks)?;
        let theirs = streams::run_all(&clients[1], &asks)?;
        if ours.prompt_tokens != theirs.prompt_tokens || ours.generated_tokens != theirs.generated_tokens {
            let what = format!("{} and {} prompt tokens", ours.prompt_tokens, theirs.prompt_tokens);
            return Err(Error::Output { program: "the servers".to_owned(), what });
        }
        let speeds = [&ours, &theirs].map(Load::tokens_a_second);
        eprintln!("round {round}: {:.0} and {:.0} tokens/s", speeds[0], speeds[1]);
        rounds.push([ours, theirs]);
    }
    page.throughput(args.streams, &rounds);
    Ok(())
}

/// All but one stream run; then the last one brings a long prompt.
fn long_prompt(args: &Args, ours: &Server, prompts: &mut Prompts<'_>, page: &mut report::Page) -> Result<()> {
    let client = Client::new(&ours.url, None);
    let full = args.streams.saturating_sub(1).max(1);
    // Beside fewer replies the least piece of a prompt is more than its share.
    for running in [full, 4, 1] {
        let mut rounds = Vec::new();
        for _ in 0..args.rounds {
            let others: Vec<Ask> = (0..running).map(|_| Ask::new(prompts.next(64), 6000)).collect();
            rounds.push(streams::disturbed(&client, &others, &Ask::new(prompts.next(LONG), 1))?);
        }
        page.long_prompt(running, running == full, &rounds);
    }
    Ok(())
}

/// The same prefix twice, with other ends.
fn prefix(args: &Args, ours: &Server, prompts: &mut Prompts<'_>, page: &mut report::Page) -> Result<()> {
    let client = Client::new(&ours.url, None);
    let mut pairs = Vec::new();
    for _ in 0..args.rounds {
        let prefix = prompts.next(PREFIX);
        let first_token = |end: &str| -> Result<(f64, u64)> {
            let load = streams::run_all(&client, &[vec![Ask::new(format!("{prefix} {end}"), 1)]])?;
            Ok((load.first_tokens[0], load.prompt_tokens))
        };
        let (first, tokens) = first_token("So it ended.")?;
        let (second, _) = first_token("But there was more to it, as we shall see.")?;
        pairs.push((first, second, tokens));
    }
    page.prefix(&pairs);
    Ok(())
}
