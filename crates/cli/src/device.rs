//! Which device computes.

use anyhow::{Result, bail};
use backend::cuda::nvrtc::Nvrtc;
use backend::cuda::{Cuda, CudaOptions, Driver};
use backend::gpu::Activations;
use backend::{Backend, Cpu, CpuConfig, Memory};
use model::LoadOptions;

use crate::args::{BackendChoice, LoadArgs, Weights};
use crate::{environment, output};

/// Replies at once from which on a GPU multiplies them as bfloat16, if nobody asks for something
/// else: docs/performance.md has the measurement.
const BF16_STREAMS: usize = 9;

/// Rows of a step on a GPU, which is slow with few of them.
const GPU_BATCH_TOKENS: usize = 2048;

/// Where a model is to be computed.
#[derive(Debug, Clone)]
pub enum Device {
    /// This machine's processor.
    Cpu,
    /// A GPU.
    Cuda {
        options: CudaOptions,
        /// Whether the CPU takes what the GPU cannot.
        or_cpu: bool,
    },
}

/// The device that `args` ask for, else a GPU where there is a usable one, for up to `streams` replies at once.
pub fn choose(args: &LoadArgs, streams: usize) -> Result<Device> {
    let device = asked(args, streams)?;
    let Device::Cuda { options, or_cpu: true } = &device else { return Ok(device) };
    match Driver::find() {
        Ok(Some(driver)) if !driver.devices.is_empty() => {}
        Ok(_) => return Ok(Device::Cpu),
        Err(error) => {
            give_up("the GPU is not used", &error);
            return Ok(Device::Cpu);
        }
    }
    if let Err(error) = Nvrtc::load(options.nvrtc.as_deref()) {
        give_up("the GPU is not used; install NVRTC, or name its file in QUARREL_NVRTC", &error);
        return Ok(Device::Cpu);
    }
    Ok(device)
}

/// What the options say alone, whatever this machine has.
pub fn asked(args: &LoadArgs, streams: usize) -> Result<Device> {
    let of_cpu = [("--isa", args.isa.is_some()), ("--weights", args.weights != Weights::Auto)];
    let of_cpu = of_cpu.into_iter().find_map(|(option, given)| given.then_some(option));
    let of_gpu = [("--device", args.device.is_some()), ("--activations", args.activations.is_some())];
    let of_gpu = of_gpu.into_iter().find_map(|(option, given)| given.then_some(option));
    let or_cpu = match (args.backend, of_gpu, of_cpu) {
        (BackendChoice::Cpu, Some(option), _) => bail!("{option} is for a GPU, but --backend is cpu"),
        (BackendChoice::Cpu, None, _) | (BackendChoice::Auto, None, Some(_)) => return Ok(Device::Cpu),
        (BackendChoice::Cuda, _, Some(option)) => bail!("{option} is for the CPU, but --backend is cuda"),
        (_, Some(of_gpu), Some(option)) => bail!("{option} is for the CPU, but {of_gpu} is for a GPU"),
        (BackendChoice::Cuda, _, None) | (_, Some(_), None) => false,
        (BackendChoice::Auto, None, None) => true,
    };
    let activations = match args.activations {
        Some(activations) => activations.into(),
        None if streams < BF16_STREAMS => Activations::Int8,
        None => Activations::Bf16,
    };
    let options = CudaOptions { activations, ..cuda_options(args.device.unwrap_or(0)) };
    Ok(Device::Cuda { options, or_cpu })
}

/// How CUDA is used here.
pub fn cuda_options(device: u16) -> CudaOptions {
    CudaOptions {
        device: device.into(),
        kernel_cache: environment::kernel_cache(),
        nvrtc: environment::nvrtc(),
        ..CudaOptions::default()
    }
}

/// Says why the CPU computes what a GPU might have.
fn give_up(what: &str, error: &dyn std::error::Error) {
    output::say(&format!("{what}: {error} (--backend cpu asks for the CPU)"));
}

impl Device {
    /// Loads `name` by `load` on this device, or on the CPU what a GPU that need not be used cannot take.
    pub fn load<T>(
        &self,
        name: &str,
        args: &LoadArgs,
        options: LoadOptions,
        load: impl Fn(Box<dyn Backend>, LoadOptions) -> Result<T, model::Error>,
    ) -> Result<T> {
        if let Self::Cuda { options: cuda, or_cpu } = self {
            let loaded = Cuda::open(cuda).map_err(model::Error::from).and_then(|cuda| {
                let options = sized(options, GPU_BATCH_TOKENS, cuda.memory());
                load(Box::new(cuda), options)
            });
            match loaded {
                Err(error) if *or_cpu && is_obstacle(&error) => {
                    give_up(&format!("{name} is computed on the CPU, since on the GPU"), &error);
                }
                loaded => return Ok(loaded?),
            }
        }
        let cpu = cpu(args)?;
        let options = sized(options, options.max_batch_tokens, cpu.memory());
        Ok(load(Box::new(cpu), options)?)
    }

    /// `options` as a model loaded now would get them.
    pub fn sized(&self, options: LoadOptions) -> LoadOptions {
        match self {
            Self::Cpu => sized(options, options.max_batch_tokens, Memory::now()),
            Self::Cuda { options: cuda, .. } => {
                let memory = Cuda::open(cuda).ok().and_then(|cuda| cuda.memory());
                sized(options, GPU_BATCH_TOKENS, memory)
            }
        }
    }
}

fn sized(options: LoadOptions, max_batch_tokens: usize, memory: Option<Memory>) -> LoadOptions {
    LoadOptions { max_batch_tokens, memory: memory.map(|memory| memory.available), ..options }
}

fn cpu(args: &LoadArgs) -> Result<Cpu> {
    let (isa, weights) = (args.isa, args.weights.into());
    Ok(Cpu::new(CpuConfig { threads: Some(threads(args)), isa, weights })?)
}

/// Whether an error is about what the GPU has, and not about the model or the options.
fn is_obstacle(error: &model::Error) -> bool {
    use backend::Error::{Absent, Device, OutOfMemory, Unavailable};
    match error {
        model::Error::Memory { .. } => true,
        model::Error::Backend(error) => {
            matches!(error, Absent { .. } | Device { .. } | OutOfMemory { .. } | Unavailable { .. })
        }
        _ => false,
    }
}

/// Threads of the CPU to compute with.
pub fn threads(args: &LoadArgs) -> usize {
    args.threads.map_or_else(default_threads, usize::from)
}

/// One thread for each core.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn asked_by(options: &[&str]) -> Result<Device> {
        let words = ["quarrel", "run"].iter().chain(options).chain(&["hi"]);
        let Command::Run(args) = Cli::try_parse_from(words)?.command else { panic!("it is `run`") };
        asked(&args.model.load, 1)
    }

    #[test]
    fn options_say_which_device_is_meant() {
        let cuda = |options: &[&str]| match asked_by(options).unwrap() {
            Device::Cpu => None,
            Device::Cuda { options, or_cpu } => Some((options.device, or_cpu)),
        };
        assert_eq!(cuda(&[]), Some((0, true)));
        assert_eq!(cuda(&["--threads", "2", "--weights", "auto"]), Some((0, true)));
        assert_eq!(cuda(&["--backend", "cuda"]), Some((0, false)));
        assert_eq!(cuda(&["--device", "1"]), Some((1, false)));
        assert_eq!(cuda(&["--backend", "cpu"]), None);
        assert_eq!(cuda(&["--isa", "scalar"]), None);
        assert_eq!(cuda(&["--weights", "mapped"]), None);
        for wrong in [
            &["--backend", "cpu", "--device", "0"][..],
            &["--backend", "cuda", "--isa", "scalar"],
            &["--device", "0", "--weights", "interleaved"],
            &["--backend", "cpu", "--activations", "int8"],
        ] {
            assert!(asked_by(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn many_replies_at_once_are_multiplied_as_bfloat16_unless_asked_otherwise() {
        let of = |options: &[&str], streams| {
            let words = ["quarrel", "run"].iter().chain(options).chain(&["hi"]);
            let Command::Run(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!("it is `run`")
            };
            match asked(&args.model.load, streams).unwrap() {
                Device::Cpu => None,
                Device::Cuda { options, .. } => Some(options.activations),
            }
        };
        assert_eq!(of(&[], 1), Some(Activations::Int8));
        assert_eq!(of(&[], 64), Some(Activations::Bf16));
        assert_eq!(of(&["--activations", "int8"], 64), Some(Activations::Int8));
        assert_eq!(of(&["--activations", "bf16"], 1), Some(Activations::Bf16));
    }

    #[test]
    fn the_cpu_takes_what_a_gpu_cannot_but_no_mistakes() {
        let reason = "it is absent";
        let absent = backend::Error::Absent { backend: "cuda", op: "op", what: "it".into(), reason };
        assert!(is_obstacle(&absent.into()));
        assert!(!is_obstacle(&backend::Error::Step("is wrong".into()).into()));
        assert!(!is_obstacle(&model::Error::Option { option: "context", problem: "is 0".into() }));
    }
}
