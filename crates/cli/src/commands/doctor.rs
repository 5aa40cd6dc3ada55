//! `quarrel doctor`: what this machine offers and whether Quarrel is set up.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use backend::cuda::nvrtc::Nvrtc;
use backend::cuda::{Cuda, Driver};
use backend::gpu::PromptMaps;
use backend::harness::{self, Report};
use backend::{Backend, Cpu, CpuConfig, Error, metal};
use clap::ValueEnum as _;
use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::args::{DoctorArgs, MetalGemm};
use crate::{device, environment, loading, output};

/// Of the random numbers that a GPU is tested with.
const SEED: u64 = 2026;

/// Where to say what is wrong.
const ISSUES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");

/// Tests every op on Apple's GPU with prompts multiplied by kernels, and by all else that it has.
fn test_metal() -> Result<()> {
    for gemm in MetalGemm::value_variants().iter().filter(|gemm| **gemm != MetalGemm::Auto) {
        let name = gemm.to_possible_value().expect("none is hidden").get_name().to_owned();
        match metal::open(&device::metal_options((*gemm).into())) {
            Err(error @ Error::Unavailable { .. }) if *gemm != MetalGemm::Simdgroup => {
                output::say(&format!("--metal-gemm {name} is left out: {error}"));
            }
            metal => test_ops(metal?, &name)?,
        }
    }
    Ok(())
}

fn test_ops(mut metal: Box<dyn Backend>, name: &str) -> Result<()> {
    output::say(&format!("{}: testing every op with --metal-gemm {name}", metal.description()));
    let report = harness::check_all(metal.as_mut(), SEED);
    output::show(&verdict(&report))?;
    ensure!(report.is_good(), "this GPU is not to be used so; please tell {ISSUES} all of this");
    Ok(())
}

/// Prints the findings.
pub fn run(args: &DoctorArgs) -> Result<()> {
    if args.metal {
        return test_metal();
    }
    let threads = device::default_threads();
    let cpu = Cpu::new(CpuConfig { threads: Some(threads), ..CpuConfig::default() })?.description();
    let cache = environment::cache_dir()?;
    let entries = loading::store()?.list();
    let gpu = Gpu::find();
    let metal = metal::open(&device::metal_options(PromptMaps::default()))
        .map(|metal| metal.description())
        .map_err(|error| error.to_string());
    let python = python_version(&environment::python());
    if args.json {
        let mut all = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            "cpu": cpu,
            "threads": threads,
            "cache_dir": cache,
            "cached_models": entries.as_ref().map(Vec::len).ok(),
            "cache_problem": entries.as_ref().err().map(ToString::to_string),
            "python": python,
        });
        gpu.add_to(&mut all);
        all["metal"] = json!(metal.as_ref().ok());
        all["metal_problem"] = json!(metal.as_ref().err());
        return output::show_json(&all);
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
    output::show(&format!(
        "quarrel   {} ({} {})\ncpu       {cpu}\n{}metal     {}\ncache     {} ({models})\npython    {python}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        gpu.lines(),
        metal.unwrap_or_else(|problem| problem),
        cache.display(),
    ))
    .map_err(Into::into)
}

/// What failed, a line each, and how many did not.
fn verdict(report: &Report) -> String {
    let failures: String = report.failures.iter().map(|failure| format!("FAILED {failure}\n")).collect();
    format!("{failures}{report}\n")
}

/// What computing on GPUs takes.
struct Gpu {
    driver: Result<Option<Driver>, String>,
    /// The first device, opened.
    cuda: Result<String, String>,
    nvrtc: Result<(i32, i32), String>,
    /// Compiled kernels on disk, and their bytes.
    kernels: Option<(usize, u64)>,
}

impl Gpu {
    fn find() -> Self {
        let options = device::cuda_options(0);
        let kernels = options.kernel_cache.as_deref().and_then(|dir| sizes(dir).ok());
        Self {
            driver: Driver::find().map_err(|error| error.to_string()),
            cuda: Cuda::open(&options).map(|cuda| cuda.description()).map_err(|error| error.to_string()),
            nvrtc: Nvrtc::load(options.nvrtc.as_deref())
                .map(|nvrtc| nvrtc.version())
                .map_err(|error| error.to_string()),
            kernels,
        }
    }

    /// Lines for people; one where there is no GPU, however many things are missing then.
    fn lines(&self) -> String {
        let driver = match &self.driver {
            Ok(Some(driver)) if !driver.devices.is_empty() => driver,
            Err(problem) => return format!("cuda      {problem}\n"),
            Ok(_) => {
                let problem = self.cuda.as_ref().err().map_or("no device", String::as_str);
                return format!("cuda      {problem}\n");
            }
        };
        let mut lines = format!("cuda      driver for CUDA {}.{}", driver.version.0, driver.version.1);
        if let Err(problem) = &self.cuda {
            lines += &format!("; {problem}");
        }
        for (i, device) in driver.devices.iter().enumerate() {
            let ((major, minor), memory) = (device.capability, HumanBytes(device.memory));
            lines += &format!("\n  gpu {i}   {}, compute capability {major}.{minor}, {memory}", device.name);
        }
        let nvrtc = match &self.nvrtc {
            Ok((major, minor)) => format!("{major}.{minor}"),
            Err(problem) => problem.clone() + "; QUARREL_NVRTC names its file where the system does not",
        };
        let (n, bytes) = self.kernels.unwrap_or_default();
        lines + &format!("\nnvrtc     {nvrtc}\nkernels   {n} compiled, {}\n", HumanBytes(bytes))
    }

    fn add_to(&self, all: &mut Value) {
        let devices = self.driver.iter().flatten().flat_map(|driver| &driver.devices);
        let devices = devices.map(|device| {
            let capability = format!("{}.{}", device.capability.0, device.capability.1);
            json!({ "name": device.name, "compute_capability": capability, "memory": device.memory })
        });
        let version = |version: (i32, i32)| format!("{}.{}", version.0, version.1);
        all["cuda"] = json!(self.cuda.as_ref().ok());
        all["cuda_problem"] = json!(self.cuda.as_ref().err());
        all["cuda_driver"] = json!(self.driver.iter().flatten().map(|d| version(d.version)).next());
        all["gpus"] = devices.collect();
        all["nvrtc"] = json!(self.nvrtc.as_ref().ok().copied().map(version));
        all["nvrtc_problem"] = json!(self.nvrtc.as_ref().err());
        all["compiled_kernels"] = json!(self.kernels.map_or(0, |(n, _)| n));
        all["kernel_cache"] = json!(environment::kernel_cache());
    }
}

/// Files in a directory, and their bytes.
fn sizes(dir: &Path) -> std::io::Result<(usize, u64)> {
    let mut found = (0, 0);
    for entry in dir.read_dir()? {
        found = (found.0 + 1, found.1 + entry?.metadata()?.len());
    }
    Ok(found)
}

fn python_version(python: &Path) -> Option<String> {
    let out = Command::new(python).args(["-m", "pip", "--version"]).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_named() {
        let report = Report { within: 2, absent: 1, failures: vec!["head F32 is off".to_owned()] };
        let text = "FAILED head F32 is off\n2 cases within bounds, 1 absent, 1 failed\n";
        assert_eq!((verdict(&report).as_str(), report.is_good()), (text, false));
    }
}
