//! `cargo xtask compare-llama-cpp`: our speed and llama.cpp's, measured in
//! turn on the same files, and how near decoding comes to reading memory.

pub mod llama_cpp;
mod peer;
mod stream;
mod table;

use std::path::{Path, PathBuf};

pub use table::speed;

use crate::error::{Error, Result};
use crate::figures::{Figures, Workload};
use crate::quarrel::Quarrel;
use crate::{models, workspace};
use peer::Peer;
use table::{Round, Row};

/// Prompt and generated tokens of each sequence in a batch.
const BATCHED: (u32, u32) = (128, 64);

/// Options of the command.
#[derive(clap::Args)]
pub struct Args {
    /// Threads of either program
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// How often each is measured, in turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Models to measure, separated by commas
    #[arg(long, value_delimiter = ',', default_value = models::DEFAULT, value_parser = models::parser())]
    models: Vec<String>,
    /// Hold ours to an instruction set; avx2 holds llama.cpp's build to it too
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,
    /// Prompt tokens; 0 skips
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    prompt: u32,
    /// Tokens to generate; 0 skips
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    r#gen: u32,
    /// Tokens in the context before either
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    depth: u32,
    /// Also measure N sequences that generate together, after 128 prompt tokens and 64 tokens each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
    /// Use what was built before
    #[arg(long)]
    skip_build: bool,
    /// Use llama-bench and llama-batched-bench in DIR instead of building them
    #[arg(long, value_name = "DIR")]
    llama_bin: Option<PathBuf>,
}

/// Builds both programs, measures, and prints a table.
///
/// # Errors
/// What cannot be fetched or built, a program that fails.
pub fn run(args: &Args) -> Result<()> {
    let workloads = workloads(args);
    if workloads.is_empty() {
        return Err(Error::Usage(
            "--prompt and --gen are both 0 and there is no --batch: nothing to measure",
        ));
    }
    let root = workspace::root()?;
    let (peer, peer_built) = peer(&root, args)?;
    let quarrel = Quarrel { isa: args.isa.clone(), ..Quarrel::release(&root, args.skip_build)? };
    let files = models::make(&root, &quarrel, &args.models)?;
    let programs = Programs { quarrel, peer, rounds: args.rounds };
    let mut rows = Vec::new();
    let mut device = String::new();
    for (name, file) in args.models.iter().zip(&files) {
        for workload in &workloads {
            let row;
            (row, device) = programs.measure(name, file, workload)?;
            rows.push(row);
        }
    }
    // A figure stands with the command that made it.
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("`cargo xtask {}`: ours on {device}; llama.cpp of {peer_built}.", words.join(" "));
    println!("Tokens a second, medians of {} rounds in turn.\n", args.rounds);
    print!("{}", table::render(&rows));
    Ok(())
}

/// The peer, and what it is in words.
fn peer(root: &Path, args: &Args) -> Result<(Peer, String)> {
    if let Some(directory) = &args.llama_bin {
        llama_cpp::check(directory, llama_cpp::BENCHES, "--llama-bin names the directory of both programs")?;
        return Ok((Peer { directory: directory.clone() }, "a build made elsewhere".to_owned()));
    }
    let built = llama_cpp::build(root, llama_cpp::BENCHES, args.isa.as_deref(), args.skip_build)?;
    let words = format!("{}, built for {}", llama_cpp::PACKAGE, built.target);
    Ok((Peer { directory: built.directory }, words))
}

fn workloads(args: &Args) -> Vec<Workload> {
    let single = Workload {
        threads: args.threads,
        prompt: args.prompt,
        generated: args.r#gen,
        depth: args.depth,
        batch: None,
    };
    let measured = args.prompt + args.r#gen > 0;
    let batched = args.batch.map(|batch| {
        let (prompt, generated) = BATCHED;
        Workload { prompt, generated, depth: 0, batch: Some(batch), ..single }
    });
    measured.then_some(single).into_iter().chain(batched).collect()
}

fn shown(figures: &Figures) -> String {
    let shown = |figure: Option<f64>| figure.map_or_else(|| "–".to_owned(), speed);
    format!("prefill {}, decode {}", shown(figures.prefill), shown(figures.decode))
}

/// What is measured in turn, and how often.
struct Programs {
    quarrel: Quarrel,
    peer: Peer,
    rounds: u32,
}

impl Programs {
    /// Measures one row; with it comes what ours says it ran on.
    fn measure(&self, name: &str, file: &Path, workload: &Workload) -> Result<(Row, String)> {
        let name = match workload.batch {
            Some(batch) => format!("{name}, {batch} sequences"),
            None => name.to_owned(),
        };
        let mut row = Row { name, bytes_per_token: 0.0, rounds: Vec::new() };
        let mut device = String::new();
        for round in 1..=self.rounds {
            let theirs = self.peer.bench(file, workload)?;
            let ours = self.quarrel.bench(file, workload)?;
            // Each round is shown: a median hides how much they differ.
            eprintln!("{}, round {round} of {}:", row.name, self.rounds);
            eprintln!("  ours {}; llama.cpp {}", shown(&ours.figures), shown(&theirs));
            // A step reads the weights once for all its sequences.
            row.bytes_per_token = ours.bytes as f64 / f64::from(workload.batch.unwrap_or(1));
            device = ours.device;
            let stream = stream::rate(ours.bytes, workload.threads);
            row.rounds.push(Round { figures: (ours.figures, theirs), stream });
        }
        Ok((row, device))
    }
}
