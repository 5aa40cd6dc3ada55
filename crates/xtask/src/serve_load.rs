//! `cargo xtask serve-load`: how near `quarrel serve` comes to `quarrel bench` where many replies
//! are streamed side by side, and what a long prompt does to them.
//!
//! With `--quarrel` and `--model` it needs no checkout, so that the built program measures on
//! machines that have none.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::error::{Error, Result, at};
use crate::figures::percentile;
use crate::load::streams::{self, Ask, Disturbed, Reply};
use crate::quarrel::Quarrel;
use crate::serving::http::Client;
use crate::serving::{Server, our_url};
use crate::{fixtures, models, workspace};

/// Tokens that a reply may have beside a long prompt: more than come meanwhile.
const ENDLESS: u32 = 6000;

/// Tokens that a conversation adds to a prompt, and by which a long one may be longer than asked for.
const ROOM: u32 = 192;

/// Tokens of the replies that warm the server up.
const WARM: u32 = 16;

/// What the figures must reach.
mod bar {
    /// Tokens a second, through HTTP to those of the bench.
    pub const THROUGHPUT: f64 = 0.85;
    /// 99th percentile of the time between tokens while a long prompt arrives, to that before.
    pub const LONG_PROMPT: f64 = 3.0;
}

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// The model to measure, instead of a fixture
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// The device that computes
    #[arg(long, value_name = "NAME", default_value = "auto")]
    backend: String,
    /// Replies that are streamed side by side
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    streams: u32,
    /// Tokens of each prompt, about
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=100_000))]
    prompt: u32,
    /// Tokens of each reply
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=100_000))]
    reply: u32,
    /// Tokens of the prompt that arrives while the others are answered, about
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    long: u32,
    /// How replies are sampled; 0: the likeliest tokens, as in the bench
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Use the `quarrel` that was built before
    #[arg(long)]
    skip_build: bool,
    /// Use this `quarrel`
    #[arg(long, value_name = "FILE", conflicts_with = "skip_build")]
    quarrel: Option<PathBuf>,
    /// Measure a server that runs already, and no bench beside it
    #[arg(long, value_name = "URL", conflicts_with_all = ["quarrel", "skip_build", "model"])]
    url: Option<String>,
    /// The server's chat template, for models that have none
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    /// Further options of the server and the bench, such as `--kv q8_0`
    #[arg(long, value_name = "OPTIONS", default_value = "", allow_hyphen_values = true)]
    options: String,
    /// Write the figures to this file too
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Measures, and prints Markdown.
///
/// # Errors
/// What cannot be built or started, requests that fail, and figures that miss their bar.
pub fn run(args: &Args) -> Result<()> {
    let mut page = Page::default();
    if let Some(url) = &args.url {
        measure(args, url, None, &mut page)?;
    } else {
        let (root, quarrel) = match &args.quarrel {
            Some(binary) => (std::env::temp_dir(), Quarrel { binary: binary.clone(), isa: None }),
            None => {
                let root = workspace::root()?;
                let quarrel = Quarrel::release(&root, args.skip_build)?;
                (root, quarrel)
            }
        };
        let model = match &args.model {
            Some(model) => model.clone(),
            None => fixtures::fetch(&[models::SMOLLM2])?.join(models::SMOLLM2),
        };
        // One after the other: both want the device's memory.
        let bench = bench(args, &quarrel, &model)?;
        eprintln!("bench: {bench:.0} tokens/s");
        let server = start(args, &root, &quarrel, &model)?;
        measure(args, &server.url, Some(bench), &mut page)?;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let text = format!("`cargo xtask {}`\n{}", words.join(" "), page.text);
    print!("{text}");
    if let Some(file) = &args.output {
        std::fs::write(file, text).map_err(at(file))?;
    }
    if page.missed.is_empty() { Ok(()) } else { Err(Error::Missed(page.missed)) }
}

/// Tokens a second of as many replies without a server.
fn bench(args: &Args, quarrel: &Quarrel, model: &Path) -> Result<f64> {
    #[derive(serde::Deserialize)]
    struct Json {
        decode_tok_s: f64,
    }
    let mut command = Command::new(&quarrel.binary);
    command.args(["bench", "--json", "--repetitions", "2", "--backend", &args.backend, "--model"]).arg(model);
    let [batch, prompt, reply] = [args.streams, args.prompt, args.reply].map(|n| n.to_string());
    command.args(["--batch", &batch, "--prompt", &prompt, "--gen", &reply]);
    command.args(args.options.split_whitespace());
    let out = workspace::run("measuring without a server", &mut command)?;
    let json: Json = serde_json::from_slice(&out.stdout)
        .map_err(|e| Error::Output { program: "quarrel bench".to_owned(), what: e.to_string() })?;
    Ok(json.decode_tok_s)
}

fn start(args: &Args, root: &Path, quarrel: &Quarrel, model: &Path) -> Result<Server> {
    let mut command = Command::new(&quarrel.binary);
    command.args(["serve", "--port", "0", "--backend", &args.backend, "--model"]);
    command.arg(format!("{}=m", model.display()));
    let context = args.long.max(args.prompt + args.reply.max(ENDLESS)) + ROOM;
    // One more, for the long prompt; and pages for all, or some would wait.
    let parallel = args.streams + 1;
    command.args(["--parallel", &parallel.to_string(), "--ctx", &context.to_string(), "--kv-memory", "60%"]);
    command.args(args.chat_template.iter().flat_map(|name| ["--chat-template", name]));
    command.args(args.options.split_whitespace());
    Server::start(root, "serve-load", command, our_url)
}

fn measure(args: &Args, url: &str, bench: Option<f64>, page: &mut Page) -> Result<()> {
    let client = Client::new(url, None);
    let mut prompts = Prompts::measured(&client, args.prompt)?;
    let mut asks = |n: u32, reply: u32| -> Vec<Ask> {
        (0..n).map(|_| Ask::chat(prompts.next(args.prompt), reply, args.temperature)).collect()
    };
    side_by_side(&client, &asks(args.streams, WARM))?;
    let replies = side_by_side(&client, &asks(args.streams, args.reply))?;
    page.steady(args, &Steady::of(&replies)?, bench);
    let others = asks(args.streams, ENDLESS);
    let long = Ask::chat(prompts.next(args.long), 1, args.temperature);
    page.long_prompt(&streams::disturbed(&client, &others, &long)?);
    Ok(())
}

/// Asks all at once.
fn side_by_side(client: &Client, asks: &[Ask]) -> Result<Vec<Reply>> {
    thread::scope(|scope| {
        let readers: Vec<_> =
            asks.iter().map(|ask| scope.spawn(move || streams::read(client, ask))).collect();
        readers.into_iter().map(|reader| reader.join().expect("reading does not panic")).collect()
    })
}

/// Prompts that share no beginning, of words that mean nothing: any model reads them.
struct Prompts {
    random: u64,
    words_a_token: f64,
}

impl Prompts {
    /// Asks the server how many tokens the words of a prompt are.
    fn measured(client: &Client, tokens: u32) -> Result<Self> {
        let mut prompts = Self { random: 1, words_a_token: 1.0 };
        let reply = streams::read(client, &Ask::chat(prompts.next(tokens), 1, 0.0))?;
        prompts.words_a_token = f64::from(tokens) / reply.prompt_tokens.max(1) as f64;
        Ok(prompts)
    }

    fn next(&mut self, tokens: u32) -> String {
        let words = (f64::from(tokens) * self.words_a_token) as usize;
        let letters = (0..4 * words).map(|i| if i % 4 == 3 { ' ' } else { self.letter() });
        letters.collect()
    }

    fn letter(&mut self) -> char {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + ((self.random >> 33) % 26) as u8)
    }
}

/// What came while all replies ran.
struct Steady {
    tokens_a_second: f64,
    /// Seconds between pieces of each reply.
    gaps: Vec<f64>,
    /// A token whose text is not certain yet comes with the next.
    tokens_a_piece: f64,
    prompt_tokens: u64,
}

impl Steady {
    /// From the last reply's first piece to the first reply's last.
    fn of(replies: &[Reply]) -> Result<Self> {
        let begun = replies.iter().filter_map(|reply| reply.pieces.first()).max();
        let ended = replies.iter().filter_map(|reply| reply.pieces.last()).min();
        let (Some(&begun), Some(&ended)) = (begun, ended) else {
            return Err(Error::Usage("the replies have no text to measure"));
        };
        if ended <= begun {
            return Err(Error::Usage("the first reply ended before the last began: use a larger --reply"));
        }
        let (mut tokens, mut gaps) = (0.0, Vec::new());
        for reply in replies {
            let within: Vec<Instant> =
                reply.pieces.iter().copied().filter(|piece| (begun..=ended).contains(piece)).collect();
            let own: Vec<f64> = within.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
            tokens += own.len() as f64 * reply.generated_tokens as f64 / reply.pieces.len() as f64;
            gaps.extend(own);
        }
        let seconds = (ended - begun).as_secs_f64();
        let prompt_tokens =
            replies.iter().map(|reply| reply.prompt_tokens).sum::<u64>() / replies.len() as u64;
        let tokens_a_piece = tokens / gaps.len() as f64;
        Ok(Self { tokens_a_second: tokens / seconds, gaps, tokens_a_piece, prompt_tokens })
    }
}

/// The figures in words, and which miss their bar.
#[derive(Default)]
struct Page {
    text: String,
    missed: Vec<String>,
}

impl Page {
    fn steady(&mut self, args: &Args, steady: &Steady, bench: Option<f64>) {
        let speed = steady.tokens_a_second;
        let [p50, p99] = [50.0, 99.0].map(|percent| percentile(&steady.gaps, percent) * 1e3);
        self.say(&format!(
            "{} streams, prompts of {} tokens, replies of {}: {speed:.0} tokens/s while all run, {:.3} tokens \
             a piece; between pieces p50 {p50:.1} ms and p99 {p99:.1} ms",
            args.streams, steady.prompt_tokens, args.reply, steady.tokens_a_piece
        ));
        let Some(bench) = bench else { return };
        let ratio = speed / bench;
        self.say(&format!("`quarrel bench --batch {}`: {bench:.0} tokens/s; ratio {ratio:.2}", args.streams));
        if ratio < bar::THROUGHPUT {
            self.missed.push(format!("{ratio:.2} of the bench's tokens/s, not {}", bar::THROUGHPUT));
        }
    }

    fn long_prompt(&mut self, disturbed: &Disturbed) {
        let figure = |gaps: &[f64], percent| percentile(gaps, percent) * 1e3;
        let (steady, during) = (figure(&disturbed.steady, 99.0), figure(&disturbed.during, 99.0));
        let ratio = during / steady;
        self.say(&format!(
            "a prompt of {} tokens arrives: between pieces p50 {:.1} ms and p99 {steady:.1} ms before, p50 \
             {:.1} ms and p99 {during:.1} ms meanwhile, {ratio:.2} times; its first token after {:.2} s",
            disturbed.prompt_tokens,
            figure(&disturbed.steady, 50.0),
            figure(&disturbed.during, 50.0),
            disturbed.first_token,
        ));
        if disturbed.steady.is_empty() || disturbed.during.is_empty() {
            self.missed.push("no piece came before the long prompt or beside it".to_owned());
        } else if ratio > bar::LONG_PROMPT {
            self.missed
                .push(format!("p99 {ratio:.2} times longer beside a long prompt, not {}", bar::LONG_PROMPT));
        }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.text, "- {line}").expect("writing to a string cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A reply whose pieces come at these milliseconds, two tokens each.
    fn reply(begin: Instant, pieces: &[u64]) -> Reply {
        let pieces: Vec<_> = pieces.iter().map(|ms| begin + Duration::from_millis(*ms)).collect();
        let generated_tokens = 2 * pieces.len() as u64;
        Reply { sent: begin, pieces, prompt_tokens: 5, generated_tokens }
    }

    #[test]
    fn only_the_time_in_which_all_run_counts() {
        let now = Instant::now();
        let replies = [reply(now, &[0, 100, 200, 300]), reply(now, &[200, 300, 500])];
        let steady = Steady::of(&replies).expect("they overlap");
        // One gap of each, from 200 to 300 ms.
        assert_eq!((steady.gaps.len(), steady.tokens_a_second.round()), (2, 40.0));
        assert!(Steady::of(&[reply(now, &[0, 100]), reply(now, &[200, 300])]).is_err());
        assert!(Steady::of(&[]).is_err());
    }

    #[test]
    fn prompts_share_no_beginning() {
        let mut prompts = Prompts { random: 1, words_a_token: 0.5 };
        let (first, second) = (prompts.next(8), prompts.next(8));
        assert_eq!((first.len(), first.split_whitespace().count()), (16, 4));
        assert_ne!(first[..3], second[..3]);
    }

    #[test]
    fn what_misses_its_bar_is_said() {
        let disturbed =
            |during| Disturbed { steady: vec![0.01], during: vec![during], ..Disturbed::default() };
        let mut page = Page::default();
        page.long_prompt(&disturbed(0.029));
        assert!(page.missed.is_empty());
        page.long_prompt(&disturbed(0.031));
        assert_eq!(page.missed.len(), 1, "{}", page.text);
    }
}
