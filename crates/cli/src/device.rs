//! Which device computes.

use anyhow::{Result, bail};
use backend::cuda::nvrtc::Nvrtc;
use backend::cuda::{Cuda, CudaOptions, Driver};
use backend::gpu::PromptMaps;
use backend::harness::Used;
use backend::metal::{Libraries, MetalOptions};
use backend::{Backend, Cpu, CpuConfig, Memory, harness, metal};
use model::LoadOptions;

use crate::args::{BackendChoice, LoadArgs, Weights};
use crate::{environment, output};

/// Rows of a step on a GPU, which is slow with few of them.
const CUDA_BATCH_TOKENS: usize = 2048;
/// Fewer, since macOS ends what keeps its GPU busy for long.
const METAL_BATCH_TOKENS: usize = 512;

/// Of the random numbers that a GPU is tested with.
const SEED: u64 = 2026;

/// Where a model is to be computed.
#[derive(Debug, Clone)]
pub enum Device {
    /// This machine's processor.
    Cpu,
    /// A GPU.
    Gpu {
        gpu: Gpu,
        /// Whether the CPU takes what the GPU cannot.
        or_cpu: bool,
    },
}

/// A GPU and how it is used.
#[derive(Debug, Clone)]
pub enum Gpu {
    /// NVIDIA's.
    Cuda(CudaOptions),
    /// Apple's, and what multiplies the rows of prompts there.
    Metal(PromptMaps),
}

/// The device that `args` ask for, else a GPU where there is a usable one, for up to `streams` replies at once.
pub fn choose(args: &LoadArgs, streams: usize) -> Result<Device> {
    let device = asked(args, streams)?;
    let Device::Gpu { gpu, or_cpu: true } = &device else { return Ok(device) };
    let usable = match gpu {
        Gpu::Cuda(options) => can_use_cuda(options),
        // Opened when a model is loaded; what is wrong with it then is said then.
        Gpu::Metal(_) => true,
    };
    Ok(if usable { device } else { Device::Cpu })
}

/// Whether there are driver, device and compiler; what is missing is said where the rest is there.
fn can_use_cuda(options: &CudaOptions) -> bool {
    match Driver::find() {
        Ok(Some(driver)) if !driver.devices.is_empty() => {}
        Ok(_) => return false,
        Err(error) => {
            give_up("the GPU is not used", &error);
            return false;
        }
    }
    if let Err(error) = Nvrtc::load(options.nvrtc.as_deref()) {
        give_up("the GPU is not used; install NVRTC, or name its file in QUARREL_NVRTC", &error);
        return false;
    }
    true
}

/// What the options say alone, whatever this machine has.
pub fn asked(args: &LoadArgs, streams: usize) -> Result<Device> {
    let metal = Gpu::Metal(args.metal_gemm.map_or_else(PromptMaps::default, Into::into));
    let (gpu, or_cpu) = match wanted(args)? {
        BackendChoice::Cpu => return Ok(Device::Cpu),
        BackendChoice::Cuda => (asked_cuda(args, streams), false),
        BackendChoice::Metal => (metal, false),
        BackendChoice::Auto if metal::ON_THIS_SYSTEM => (metal, true),
        BackendChoice::Auto => (asked_cuda(args, streams), true),
    };
    Ok(Device::Gpu { gpu, or_cpu })
}

/// The backend that is named, or that an option is for.
fn wanted(args: &LoadArgs) -> Result<BackendChoice> {
    use BackendChoice::{Auto, Cpu, Cuda, Metal};
    let options = [
        ("--isa", args.isa.is_some(), Cpu),
        ("--weights", args.weights != Weights::Auto, Cpu),
        ("--device", args.device.is_some(), Cuda),
        ("--activations", args.activations.is_some(), Cuda),
        ("--metal-gemm", args.metal_gemm.is_some(), Metal),
    ];
    let name = |backend| match backend {
        Auto => "any device",
        Cpu => "the CPU",
        Cuda => "CUDA",
        Metal => "Metal",
    };
    let (mut wanted, mut said_by) = (args.backend, "--backend");
    for (option, _, backend) in options.into_iter().filter(|(_, is_given, _)| *is_given) {
        if wanted == Auto {
            (wanted, said_by) = (backend, option);
        } else if wanted != backend {
            bail!("{option} is for {}, but {said_by} is for {}", name(backend), name(wanted));
        }
    }
    Ok(wanted)
}

/// CUDA as the options and the number of replies at once want it.
fn asked_cuda(args: &LoadArgs, streams: usize) -> Gpu {
    let activations = args.activations.map(Into::into);
    Gpu::Cuda(CudaOptions { activations, replies: streams, ..cuda_options(args.device.unwrap_or(0)) })
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

/// Metal's kernels, where this program was built with Apple's compiler: `build.rs` made them.
const METAL_LIBRARIES: Libraries = Libraries(include!(concat!(env!("OUT_DIR"), "/metal_libraries.rs")));

/// How Metal is used here.
pub fn metal_options(prompt_maps: PromptMaps) -> MetalOptions {
    MetalOptions { kernel_cache: environment::kernel_cache(), prompt_maps, libraries: METAL_LIBRARIES }
}

/// Says why the CPU computes what a GPU might have.
fn give_up(what: &str, error: &dyn std::error::Error) {
    output::say(&format!("{what}: {error} (--backend cpu asks for the CPU)"));
}

impl Gpu {
    fn open(&self) -> backend::Result<Box<dyn Backend>> {
        match self {
            Self::Cuda(options) => Ok(Box::new(Cuda::open(options)?)),
            Self::Metal(prompt_maps) => metal::open(&metal_options(*prompt_maps)),
        }
    }

    /// Opens one that nobody named. What has never run on such hardware must pass a test before,
    /// and is not used without a word.
    fn open_tested(&self, used: &[Used]) -> backend::Result<Box<dyn Backend>> {
        let mut gpu = self.open()?;
        if matches!(self, Self::Metal(_)) {
            harness::self_test(gpu.as_mut(), used, SEED)?;
            output::say(&format!(
                "the GPU passed a short test and is used ({}; `quarrel doctor --metal` tests all of it, \
                 --backend cpu asks for the CPU)",
                metal::NEVER_RUN
            ));
        }
        Ok(gpu)
    }

    fn batch_tokens(&self) -> usize {
        match self {
            Self::Cuda(_) => CUDA_BATCH_TOKENS,
            Self::Metal(_) => METAL_BATCH_TOKENS,
        }
    }
}

impl Device {
    /// Loads `name`, of formats `used`, by `load` on this device, or on the CPU what a GPU that need not
    /// be used cannot take.
    pub fn load<T>(
        &self,
        (name, used): (&str, &[Used]),
        args: &LoadArgs,
        options: LoadOptions,
        load: impl Fn(Box<dyn Backend>, LoadOptions) -> Result<T, model::Error>,
    ) -> Result<T> {
        if let Self::Gpu { gpu, or_cpu } = self {
            let opened = if *or_cpu { gpu.open_tested(used) } else { gpu.open() };
            let loaded = opened.map_err(model::Error::from).and_then(|opened| {
                let options = sized(options, gpu.batch_tokens(), opened.memory());
                load(opened, options)
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
            Self::Gpu { gpu, .. } => {
                let memory = gpu.open().ok().and_then(|gpu| gpu.memory());
                sized(options, gpu.batch_tokens(), memory)
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
    use backend::gpu::{Activations, Library, Multiplier};
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn asked_by(options: &[&str]) -> Result<Device> {
        let words = ["quarrel", "run"].iter().chain(options).chain(&["hi"]);
        let Some(Command::Run(args)) = Cli::try_parse_from(words)?.command else { panic!("it is `run`") };
        asked(&args.model.load, 1)
    }

    #[test]
    fn options_say_which_device_is_meant() {
        let gpu = |options: &[&str]| match asked_by(options).unwrap() {
            Device::Cpu => None,
            Device::Gpu { gpu: Gpu::Cuda(options), or_cpu } => Some((Some(options.device), or_cpu)),
            Device::Gpu { gpu: Gpu::Metal(_), or_cpu } => Some((None, or_cpu)),
        };
        let first = if metal::ON_THIS_SYSTEM { None } else { Some(0) };
        assert_eq!(gpu(&[]), Some((first, true)));
        assert_eq!(gpu(&["--threads", "2", "--weights", "auto"]), Some((first, true)));
        assert_eq!(gpu(&["--backend", "cuda"]), Some((Some(0), false)));
        assert_eq!(gpu(&["--backend", "metal"]), Some((None, false)));
        assert_eq!(gpu(&["--device", "1"]), Some((Some(1), false)));
        assert_eq!(gpu(&["--backend", "cpu"]), None);
        assert_eq!(gpu(&["--isa", "scalar"]), None);
        assert_eq!(gpu(&["--weights", "mapped"]), None);
        for wrong in [
            &["--backend", "cpu", "--device", "0"][..],
            &["--backend", "cuda", "--isa", "scalar"],
            &["--backend", "metal", "--isa", "scalar"],
            &["--backend", "metal", "--device", "0"],
            &["--device", "0", "--weights", "interleaved"],
            &["--backend", "cpu", "--activations", "int8"],
            &["--backend", "cuda", "--metal-gemm", "mps"],
            &["--metal-gemm", "mps", "--isa", "scalar"],
        ] {
            assert!(asked_by(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn metal_learns_what_multiplies_prompts() {
        use PromptMaps::{By, Fastest};
        let library = |library| By(Multiplier::Library(library));
        let of = |options: &[&str]| match asked_by(options).unwrap() {
            Device::Gpu { gpu: Gpu::Metal(prompt_maps), or_cpu: false } => Some(prompt_maps),
            Device::Cpu | Device::Gpu { .. } => None,
        };
        assert_eq!(of(&["--backend", "metal"]), Some(PromptMaps::default()));
        for (word, prompt_maps) in [
            ("simdgroup", By(Multiplier::Kernels)),
            ("tensor", By(Multiplier::Tensors)),
            ("mps", library(Library::Matrices)),
            ("mpsgraph", library(Library::Graph)),
            ("auto", Fastest),
        ] {
            assert_eq!(of(&["--metal-gemm", word]), Some(prompt_maps), "the option alone names Metal");
        }
        let words = ["quarrel", "run", "--deterministic", "--metal-gemm", "auto", "hi"];
        assert!(Cli::try_parse_from(words).is_err(), "what the framework rounds is not known");
    }

    #[test]
    fn cuda_learns_of_activations_and_replies() {
        let of = |options: &[&str], streams| {
            let words = ["quarrel", "run"].iter().chain(options).chain(&["hi"]);
            let Some(Command::Run(args)) = Cli::try_parse_from(words).unwrap().command else {
                panic!("it is `run`")
            };
            match asked(&args.model.load, streams).unwrap() {
                Device::Gpu { gpu: Gpu::Cuda(options), .. } => Some((options.activations, options.replies)),
                Device::Cpu | Device::Gpu { gpu: Gpu::Metal(_), .. } => None,
            }
        };
        assert_eq!(of(&["--backend", "cuda"], 64), Some((None, 64)));
        assert_eq!(of(&["--activations", "int8"], 64), Some((Some(Activations::Int8), 64)));
        assert_eq!(of(&["--activations", "bf16"], 1), Some((Some(Activations::Bf16), 1)));
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
