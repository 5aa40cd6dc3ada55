//! Our own program: built, run, and its measurements read.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::figures::{Figures, Workload};
use crate::workspace::{self, run};

/// A built `quarrel`.
#[derive(Debug, Clone)]
pub struct Quarrel {
    /// The binary.
    pub binary: PathBuf,
    /// The instruction set that measurements are held to; its own choice if absent.
    pub isa: Option<String>,
}

/// What `quarrel bench` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Of the model's tensors.
    pub bytes: u64,
    /// What computed, in words.
    pub device: String,
    /// The speed.
    pub figures: Figures,
}

/// The binary's name.
pub fn file_name() -> String {
    format!("quarrel{}", std::env::consts::EXE_SUFFIX)
}

impl Quarrel {
    /// The release build of the workspace at `root`, made first unless `skip_build`.
    ///
    /// # Errors
    /// A build that fails; nothing there when the build is skipped.
    pub fn release(root: &Path, skip_build: bool) -> Result<Self> {
        if !skip_build {
            let mut cargo = workspace::cargo();
            cargo.current_dir(root).args(["build", "--release", "--locked", "--package", "quarrel"]);
            workspace::watch(&mut cargo)?;
        }
        let binary = workspace::target_directory(root)?.join("release").join(file_name());
        if !binary.exists() {
            return Err(Error::Missing { path: binary, advice: "run without --skip-build" });
        }
        Ok(Self { binary, isa: None })
    }

    /// The build that tests use, made first.
    ///
    /// # Errors
    /// A build that fails.
    pub fn dev(root: &Path) -> Result<Self> {
        let mut cargo = workspace::cargo();
        // Chosen from the workspace and beside a test, it has dependencies with the features that tests have
        // them with, and they are compiled once.
        let options = ["--workspace", "--bin", "quarrel", "--test", "c_header"];
        workspace::watch(cargo.current_dir(root).args(["build", "--locked"]).args(options))?;
        let binary = workspace::target_directory(root)?.join("debug").join(file_name());
        Ok(Self { binary, isa: None })
    }

    /// Runs it with `args`, its output kept.
    ///
    /// # Errors
    /// What it says when it fails.
    pub fn run(&self, what: &str, args: &[&str]) -> Result<std::process::Output> {
        run(what, Command::new(&self.binary).args(args))
    }

    /// Writes the model `input` to `output` in another format.
    ///
    /// # Errors
    /// What `quarrel quantize` says.
    pub fn quantize(&self, input: &Path, output: &Path, format: &str) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("quantize").args([input, output]).args([format, "--force"]);
        run(&format!("quantising to {format}"), &mut command).map(drop)
    }

    /// Measures once.
    ///
    /// # Errors
    /// What `quarrel bench` says; output without a figure that was asked for.
    pub fn bench(&self, model: &Path, workload: &Workload) -> Result<Report> {
        let mut command = Command::new(&self.binary);
        // As the peer is built: for the CPU.
        command.arg("bench").args(["--backend", "cpu", "--json", "--repetitions", "1", "--model"]).arg(model);
        command.args(arguments(workload));
        if let Some(isa) = &self.isa {
            command.args(["--isa", isa]);
        }
        let out = run("measuring ours", &mut command)?;
        parse(&String::from_utf8_lossy(&out.stdout), workload)
            .map_err(|what| Error::Output { program: "quarrel bench".to_owned(), what })
    }
}

fn arguments(workload: &Workload) -> Vec<String> {
    let mut options = vec![
        ("--threads", workload.threads),
        ("--prompt", workload.prompt),
        ("--gen", workload.generated),
        ("--depth", workload.depth),
    ];
    options.extend(workload.batch.map(|batch| ("--batch", batch)));
    options.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]).collect()
}

/// Reads the JSON of `quarrel bench`.
fn parse(text: &str, workload: &Workload) -> Result<Report, String> {
    #[derive(serde::Deserialize)]
    struct Json {
        bytes: u64,
        device: String,
        prefill_tok_s: Option<f64>,
        decode_tok_s: Option<f64>,
    }
    let json: Json = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut figures = Figures::default();
    if workload.prompt > 0 && workload.batch.is_none() {
        figures.prefill = Some(json.prefill_tok_s.ok_or("no `prefill_tok_s`")?);
    }
    if workload.generated > 0 {
        figures.decode = Some(json.decode_tok_s.ok_or("no `decode_tok_s`")?);
    }
    Ok(Report { bytes: json.bytes, device: json.device, figures })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { threads: 2, prompt: 64, generated: 16, depth: 0, batch: None };

    /// As `quarrel bench --prompt 64 --gen 16 -r 1 --json` prints it, shortened.
    const OUTPUT: &str = r#"{
        "model": "smollm2-135m.gguf", "device": "cpu: 2 threads, AVX-512 VNNI", "bytes": 96576768,
        "prompt": 64, "gen": 16, "kv": "f16",
        "prefill_tok_s": 283.75, "prefill_sd": 0.0, "decode_tok_s": 53.5, "decode_sd": 0.0
    }"#;

    #[test]
    fn figures_are_read() {
        let report = parse(OUTPUT, &WORKLOAD).expect("a true output");
        assert_eq!((report.bytes, report.device.as_str()), (96_576_768, "cpu: 2 threads, AVX-512 VNNI"));
        assert_eq!(report.figures, Figures { prefill: Some(283.75), decode: Some(53.5) });
        let batched = parse(OUTPUT, &Workload { batch: Some(16), ..WORKLOAD }).expect("a true output");
        assert_eq!(batched.figures, Figures { prefill: None, decode: Some(53.5) });
    }

    #[test]
    fn a_figure_that_was_asked_for_must_be_there() {
        let without = OUTPUT.replace("283.75", "null");
        assert_eq!(parse(&without, &WORKLOAD), Err("no `prefill_tok_s`".to_owned()));
        assert!(parse(&without, &Workload { prompt: 0, ..WORKLOAD }).is_ok());
        assert!(parse("error", &WORKLOAD).is_err());
    }

    #[test]
    fn options_of_the_command_line() {
        let line = arguments(&Workload { batch: Some(16), ..WORKLOAD }).join(" ");
        assert_eq!(line, "--threads 2 --prompt 64 --gen 16 --depth 0 --batch 16");
    }
}
