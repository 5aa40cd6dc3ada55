//! `quarrel doctor`: what this machine offers and whether Quarrel is set up.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use backend::Backend;
use backend::cuda::{Cuda, CudaOptions};
use indicatif::HumanBytes;
use serde_json::json;

use crate::args::DoctorArgs;
use crate::{environment, loading, output};

/// Prints the findings.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let threads = loading::default_threads();
    let cpu = loading::cpu(threads)?.description();
    let cache = environment::cache_dir()?;
    let entries = loading::store()?.list();
    let cuda = Cuda::open(&CudaOptions::default()).map(|cuda| cuda.description()).map_err(|e| e.to_string());
    let python = python_version(&environment::python());
    if args.json {
        return output::show_json(&json!({
            "version": env!("CARGO_PKG_VERSION"),
            "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            "cpu": cpu,
            "threads": threads,
            "cuda": cuda.as_ref().ok(),
            "cuda_problem": cuda.as_ref().err(),
            "cache_dir": cache,
            "cached_models": entries.as_ref().map(Vec::len).ok(),
            "cache_problem": entries.as_ref().err().map(ToString::to_string),
            "python": python,
        }));
    }
    let models = match &entries {
        Ok(entries) => {
            let bytes = entries.iter().map(|entry| entry.bytes).sum();
            format!("{} models, {}", entries.len(), HumanBytes(bytes))
        }
        Err(error) => format!("cannot be read: {error}"),
    };
    let python =
        python.unwrap_or_else(|| "not found; needed only to fetch smollm2-135m and gemma3-270m".into());
    let cuda = cuda.unwrap_or_else(|problem| problem);
    output::show(&format!(
        "quarrel   {} ({} {})\ncpu       {cpu}\ncuda      {cuda}\ncache     {} ({models})\npython    {python}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        cache.display(),
    ))
    .map_err(Into::into)
}

fn python_version(python: &Path) -> Option<String> {
    let out = Command::new(python).args(["-m", "pip", "--version"]).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
