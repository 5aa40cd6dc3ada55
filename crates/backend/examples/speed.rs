//! Tokens a second of a model with SmolLM2-135M's shape and random weights:
//! `cargo run --release -p quarrel-backend --example speed -- [FORMAT] [THREADS]`.

use std::error::Error;
use std::time::Instant;

use gguf::Format;
use quarrel_backend::harness::{self, ModelShape, Random, inputs};
use quarrel_backend::{Backend, Cpu, CpuConfig, GroupConfig};

const PROMPT: u32 = 512;
const GENERATED: u32 = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "Q4_0".to_owned());
    let threads = args.next().map(|n| n.parse()).transpose()?;
    let format = harness::formats().find(|format| format.name() == name);
    let format = format.ok_or_else(|| format!("no format `{name}`"))?;
    let mut cpu = Cpu::new(CpuConfig { threads, ..CpuConfig::default() })?;
    println!("{}, {}", cpu.description(), format);
    let [prefill, decode] = measure(&mut cpu, format)?;
    println!("prefill of {PROMPT}: {prefill:.1} tokens/s, then {GENERATED} decoded: {decode:.1} tokens/s");
    Ok(())
}

fn measure(backend: &mut dyn Backend, format: Format) -> Result<[f64; 2], Box<dyn Error>> {
    let groups = vec![GroupConfig { n_pages: 64, page_size: 16, window: None }];
    let mut case = ModelShape::SMOLLM2_135M.case(&mut Random::new(1), format, groups);
    case.runs = vec![inputs(&case.cache, &[(PROMPT, PROMPT)])];
    backend.load(case.weights.clone())?;
    backend.create_cache(&case.cache)?;
    let prefill = backend.lower(&case.step, case.bucket())?;
    backend.run(prefill, &case.runs[0])?;
    let start = Instant::now();
    backend.run(prefill, &case.runs[0])?;
    let prefill = f64::from(PROMPT) / start.elapsed().as_secs_f64();

    let steps = (1..=GENERATED).map(|i| inputs(&case.cache, &[(1, PROMPT + i)]));
    case.runs = steps.collect();
    let decode = backend.lower(&case.step, case.bucket())?;
    let start = Instant::now();
    case.runs.iter().try_for_each(|run| backend.run(decode, run))?;
    Ok([prefill, f64::from(GENERATED) / start.elapsed().as_secs_f64()])
}
