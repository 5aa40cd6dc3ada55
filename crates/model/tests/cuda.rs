//! Real models on a CUDA device: as near to what exact weights and activations
//! give as the CPU is where it multiplies alike: generated tokens as 8-bit
//! integers, prompts so or in bf16.
//!
//! Needs models in `target/fixtures`, the default one at least (`cargo xtask fixtures`).

mod common;

use std::path::{Path, PathBuf};

use backend::{Backend, Cpu, CpuConfig, Isa, Role};
use gguf::ModelFile;
use quarrel_model::quantize::{Recipe, quantize};
use quarrel_model::{Error, LoadOptions, LoadedModel, ModelRunner as _, load, single};
use tokenizer::{Encode, Tokenizer};

/// Tokens of the prompt, and of the reply.
const PROMPT: usize = 192;
const REPLY: usize = 32;

/// The likeliest tokens of a position whose logits are compared.
const LIKELIEST: usize = 4;

/// What is read: plain English with names and code in it.
const TEXT: &str = include_str!("../../../docs/sampling.md");

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures")
}

/// The models that are there.
fn models() -> Vec<PathBuf> {
    let entries = fixtures().read_dir().expect("`cargo xtask fixtures` makes it");
    let paths = entries.map(|entry| entry.expect("a directory can be read").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "gguf")).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no model in {}", fixtures().display());
    paths
}

/// The CPU by the fastest instruction set that multiplies nothing in bf16, or all of a prompt as
/// AMX does, if this processor can (any x86-64 can at least emulate it).
fn cpu(in_bf16: bool) -> Box<dyn Backend> {
    let open = |isa| Cpu::new(CpuConfig { isa: Some(isa), ..CpuConfig::default() }).expect("it is available");
    let (amx, others): (Vec<_>, Vec<_>) = Isa::available().partition(|isa| isa.option().starts_with("amx"));
    let found = match amx.last() {
        Some(&isa) if in_bf16 => Some(open(isa)),
        _ => others.into_iter().map(open).rfind(|cpu| !cpu.rounds_prompts()),
    };
    Box::new(found.expect("plain Rust rounds nothing"))
}

fn loaded(file: &ModelFile, backend: Box<dyn Backend>) -> Result<LoadedModel, Error> {
    let context = Some((PROMPT + REPLY) as u32);
    let (max_batch_tokens, max_outputs) = (PROMPT, PROMPT);
    load(file, backend, &LoadOptions { context, max_batch_tokens, max_outputs, ..LoadOptions::default() })
}

/// Logits after each of `ids`, the first at position `start`.
fn run(model: &mut LoadedModel, ids: &[u32], start: usize, role: Role) -> Vec<Vec<f32>> {
    let rows = single::Rows { ids, start: start as u32, role };
    let batch = single::batch(model.groups(), &rows, (0..ids.len() as u32).collect());
    model.forward(&batch).expect("the batch fits");
    let n_vocab = model.limits().n_vocab;
    model.logits().expect("a batch has run").chunks_exact(n_vocab).map(<[f32]>::to_vec).collect()
}

/// Logits after each token of the prompt, in two chunks, and of the reply, one by one.
fn forced(model: &mut LoadedModel, prompt: &[u32], reply: &[u32]) -> [Vec<Vec<f32>>; 2] {
    let (first, second) = prompt.split_at(PROMPT / 3);
    let mut read = run(model, first, 0, Role::Prompt);
    read.extend(run(model, second, first.len(), Role::Prompt));
    let said = reply.iter().enumerate();
    let said = said.flat_map(|(i, id)| run(model, &[*id], PROMPT + i, Role::Generated));
    [read, said.collect()]
}

/// Indices of the largest logits, the largest first.
fn likeliest(logits: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    ids.truncate(LIKELIEST);
    ids
}

/// Mean difference from the exact logits of their likeliest tokens.
fn distance(logits: &[Vec<f32>], exact: &[Vec<f32>]) -> f32 {
    let differences = logits
        .iter()
        .zip(exact)
        .flat_map(|(logits, exact)| likeliest(exact).into_iter().map(|id| (logits[id] - exact[id]).abs()));
    differences.sum::<f32>() / (exact.len() * LIKELIEST) as f32
}

/// The likeliest reply to the prompt, as the model itself goes on.
fn greedy(model: &mut LoadedModel, prompt: &[u32]) -> Vec<u32> {
    let mut logits = run(model, prompt, 0, Role::Prompt).pop().expect("it has rows");
    let mut reply = Vec::new();
    while reply.len() < REPLY {
        let id = likeliest(&logits)[0] as u32;
        logits = run(model, &[id], PROMPT + reply.len(), Role::Generated).remove(0);
        reply.push(id);
    }
    reply
}

/// Two devices that round as finely differ from exact logits by about as much, on average over
/// some hundreds of them, whatever the order of their sums. Where the CPU rounds nothing but f32,
/// the device is allowed a hundredth of a logit, which caches in f16 cost.
fn allowed(cpu: f32) -> f32 {
    1.15 * cpu + 0.01
}

/// The likeliest reply to a prompt, and the logits of the CPU's reply, forced.
struct Said {
    reply: Vec<u32>,
    forced: [Vec<Vec<f32>>; 2],
}

/// What the device, the CPU and exact weights make of the beginning of [`TEXT`]; `None` where the
/// device lacks a kernel.
fn said(file: &ModelFile) -> Option<[Said; 3]> {
    let device = common::cuda();
    let in_bf16 = device.rounds_prompts();
    let cuda = match loaded(file, device) {
        Err(Error::Backend(backend::Error::Absent { .. })) => return None,
        loaded => loaded.expect("the model loads"),
    };
    let exact = quantize(file, Recipe::F32, &[], 2).expect("the model can be converted");
    let exact = loaded(&exact, cpu(false)).expect("the model loads");
    let cpu = loaded(file, cpu(in_bf16)).expect("the model loads");

    let tokenizer = Tokenizer::from_metadata(&file.metadata).expect("the model has a vocabulary");
    let mut prompt = tokenizer.encode(TEXT, Encode { add_special: true, parse_special: false });
    prompt.truncate(PROMPT);
    assert_eq!(prompt.len(), PROMPT, "the text is long enough");

    let mut models = [cuda, cpu, exact];
    let replies = models.each_mut().map(|model| greedy(model, &prompt));
    let same = replies[1].clone();
    let forced = models.map(|mut model| forced(&mut model, &prompt, &same));
    let mut said = replies.into_iter().zip(forced).map(|(reply, forced)| Said { reply, forced });
    Some(std::array::from_fn(|_| said.next().expect("there are three")))
}

fn check(path: &Path) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = ModelFile::open(path).unwrap_or_else(|e| panic!("{name}: {e}"));
    let Some([cuda, cpu, exact]) = said(&file) else {
        return println!("{name}: not all kernels are there");
    };
    for (i, what) in ["prompt", "reply"].into_iter().enumerate() {
        let [of_cuda, of_cpu] = [&cuda, &cpu].map(|said| distance(&said.forced[i], &exact.forced[i]));
        println!("{name}: {what} off by {of_cuda:.4} on CUDA, by {of_cpu:.4} on the CPU");
        assert!(of_cuda <= allowed(of_cpu), "{name}: {what} off by {of_cuda}, on the CPU by {of_cpu}");
    }
    let equal = cpu.reply.iter().zip(&cuda.reply).take_while(|(a, b)| a == b).count();
    println!("{name}: the reply is the CPU's for {equal} of {REPLY} tokens");
    if equal < REPLY {
        // What both chose from: the logits before the first token that differs.
        let [prompt, reply] = &exact.forced;
        let before = if equal == 0 { &prompt[PROMPT - 1] } else { &reply[equal - 1] };
        let [ours, other] = [&cuda, &cpu].map(|said| before[said.reply[equal] as usize]);
        // Five times what a logit is off by on the CPU.
        let near_tie = 5.0 * allowed(distance(&cpu.forced[1], reply));
        assert!((ours - other).abs() <= near_tie, "{name}: token {equal} differs: {ours}, not {other}");
    }
}

mod cuda {
    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn real_models_are_as_exact_as_on_the_cpu() {
        super::models().iter().for_each(|path| super::check(path));
    }
}
