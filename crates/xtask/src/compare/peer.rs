//! The peer's two measuring programs: run, and their output read.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::figures::{Figures, Workload};
use crate::workspace::run;

/// llama.cpp's programs.
pub struct Peer {
    /// Where `llama-bench` and `llama-batched-bench` are.
    pub directory: PathBuf,
}

impl Peer {
    /// Measures once.
    ///
    /// # Errors
    /// What the program says; output without a figure that was asked for.
    pub fn bench(&self, model: &Path, workload: &Workload) -> Result<Figures> {
        match workload.batch {
            None => self.output("llama-bench", &single(workload), model, |text| parse_single(text, workload)),
            Some(batch) => {
                let arguments = batched(workload, batch);
                self.output("llama-batched-bench", &arguments, model, |text| parse_batched(text, batch))
            }
        }
    }

    fn output(
        &self,
        program: &str,
        arguments: &str,
        model: &Path,
        parse: impl FnOnce(&str) -> Result<Figures, String>,
    ) -> Result<Figures> {
        let mut command = Command::new(self.directory.join(program));
        command.arg("-m").arg(model).args(arguments.split(' '));
        let out = run("measuring llama.cpp", &mut command)?;
        parse(&String::from_utf8_lossy(&out.stdout))
            .map_err(|what| Error::Output { program: program.to_owned(), what })
    }
}

fn single(workload: &Workload) -> String {
    let Workload { threads, prompt, generated, depth, .. } = workload;
    format!("-p {prompt} -n {generated} -d {depth} -t {threads} -r 1 -o json")
}

fn batched(workload: &Workload, batch: u32) -> String {
    let Workload { threads, prompt, generated, .. } = workload;
    // It divides the context among the sequences, in multiples of 256.
    let context = (batch * (prompt + generated).next_multiple_of(256)).max(8192);
    format!(
        "-c {context} -b 2048 -npp {prompt} -ntg {generated} -npl {batch} -t {threads} -tb {threads} \
         --output-format jsonl"
    )
}

/// Reads the JSON of `llama-bench`: an array with an entry a test.
fn parse_single(text: &str, workload: &Workload) -> Result<Figures, String> {
    #[derive(Deserialize)]
    struct Test {
        n_prompt: u32,
        n_gen: u32,
        avg_ts: f64,
    }
    let tests: Vec<Test> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let figure = |prompt, generated| {
        if prompt + generated == 0 {
            return Ok(None);
        }
        let found = tests.iter().find(|test| (test.n_prompt, test.n_gen) == (prompt, generated));
        found.map(|test| Some(test.avg_ts)).ok_or(format!("no test of {prompt} + {generated} tokens"))
    };
    Ok(Figures { prefill: figure(workload.prompt, 0)?, decode: figure(0, workload.generated)? })
}

/// Reads the JSON lines of `llama-batched-bench`, which has other lines too.
fn parse_batched(text: &str, batch: u32) -> Result<Figures, String> {
    #[derive(Deserialize)]
    struct Test {
        pl: u32,
        speed_tg: f64,
    }
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let test: Test = serde_json::from_str(line).map_err(|e| e.to_string())?;
        if test.pl == batch {
            return Ok(Figures { prefill: None, decode: Some(test.speed_tg) });
        }
    }
    Err(format!("no test of {batch} sequences"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { threads: 2, prompt: 64, generated: 16, depth: 32, batch: None };

    /// As `llama-bench -p 64 -n 16 -d 32 -t 2 -r 1 -o json` prints it, shortened.
    const SINGLE: &str = r#"[
        { "n_threads": 2, "n_prompt": 64, "n_gen": 0, "n_depth": 32, "avg_ts": 325.25, "samples_ts": [ 325.25 ] },
        { "n_threads": 2, "n_prompt": 0, "n_gen": 16, "n_depth": 32, "avg_ts": 119.5, "samples_ts": [ 119.5 ] }
    ]"#;

    /// As `llama-batched-bench … --output-format jsonl` prints it, shortened.
    const BATCHED: &str = "\n{\"n_kv_max\": 2048, \"pp\": 32, \"tg\": 8, \"pl\": 4, \
                           \"speed_pp\": 329.25, \"t_tg\": 0.187, \"speed_tg\": 171.5, \"speed\": 277.5}\n\n";

    #[test]
    fn single_sequence() {
        let figures = Figures { prefill: Some(325.25), decode: Some(119.5) };
        assert_eq!(parse_single(SINGLE, &WORKLOAD), Ok(figures));
        let decode = Figures { prefill: None, decode: Some(119.5) };
        assert_eq!(parse_single(SINGLE, &Workload { prompt: 0, ..WORKLOAD }), Ok(decode));
        let other = parse_single(SINGLE, &Workload { generated: 17, ..WORKLOAD });
        assert_eq!(other, Err("no test of 0 + 17 tokens".to_owned()));
        assert!(parse_single("", &WORKLOAD).is_err());
    }

    #[test]
    fn batched_sequences() {
        let figures = Figures { prefill: None, decode: Some(171.5) };
        assert_eq!(parse_batched(BATCHED, 4), Ok(figures));
        assert_eq!(parse_batched(BATCHED, 16), Err("no test of 16 sequences".to_owned()));
        assert!(parse_batched("{", 4).is_err());
    }

    #[test]
    fn command_lines() {
        assert_eq!(single(&WORKLOAD), "-p 64 -n 16 -d 32 -t 2 -r 1 -o json");
        let line = batched(&Workload { prompt: 500, generated: 64, ..WORKLOAD }, 16);
        assert_eq!(line, "-c 12288 -b 2048 -npp 500 -ntg 64 -npl 16 -t 2 -tb 2 --output-format jsonl");
    }
}
