//! The default model on the emulator beside the CPU's backend: both are given the same tokens,
//! and every row of logits is compared.
//!
//! The emulator reads the file as it is, quantised; the CPU, which would round what it multiplies
//! quantised weights by, has them as f32. So both compute the same, and bounds are tight.

use std::path::Path;
use std::sync::LazyLock;

use ::model::quantize::{Recipe, quantize};
use ::model::single::{Rows, Shares};
use ::model::{LoadOptions, LoadedModel, ModelRunner as _};
use backend::bounds::{self, Bound};
use backend::{Backend as _, Cpu, CpuConfig, Isa, KvFormat, Role, WeightLayout, harness};
use gguf::ModelFile;

use crate::emulator;

/// Two prompts that fit one step each.
const PROMPT: [u32; 13] = [504, 3575, 282, 4649, 314, 7042, 30, 198, 198, 504, 2988, 314, 42];
const OTHER: [u32; 7] = [1604, 3987, 46477, 24, 94, 727, 198];
const REPLY: usize = 16;

/// The model's layers, and the columns of its widest map.
const N_LAYERS: usize = 30;
const WIDEST: usize = 1536;

/// Sequences that share the cache.
const N: u32 = 2;

/// The file as it is, and converted to f32.
static FILES: LazyLock<(ModelFile, ModelFile)> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fixtures/smollm2-135m.gguf");
    let file = ModelFile::open(&path).expect("`cargo xtask fixtures` fetches the model");
    let exact = quantize(&file, Recipe::F32, &[], 2).expect("the model can be converted");
    (file, exact)
});

/// The model on the emulator and on the CPU.
struct Both {
    metal: LoadedModel,
    cpu: LoadedModel,
    bound: Bound,
}

impl Both {
    fn load(kv: KvFormat) -> Self {
        let (file, exact) = &*FILES;
        let emulator = emulator();
        let mut bound = bounds::logits(N_LAYERS, WIDEST, kv, kv);
        if emulator.rounds_prompts() {
            bound = bound.plus(bounds::BF16_PROMPTS);
        }
        let options = LoadOptions {
            context: Some(64),
            kv_k: kv,
            kv_v: kv,
            max_batch_tokens: 16,
            max_sequences: N as usize,
            max_outputs: 16,
            ..LoadOptions::default()
        };
        // Of those that round nothing the fastest that this machine has.
        let rounds_nothing = |isa: &Isa| ["scalar", "avx2", "neon"].contains(&isa.name());
        let isa = Isa::available().filter(rounds_nothing).last();
        let config = CpuConfig { threads: None, isa, weights: WeightLayout::Mapped };
        let cpu = Cpu::new(config).expect("every machine has a CPU");
        Self {
            metal: ::model::load(file, Box::new(emulator), &options).expect("the model loads"),
            cpu: ::model::load(exact, Box::new(cpu), &options).expect("the model loads"),
            bound,
        }
    }

    /// Logits of every row, after the same rows on both were found to agree.
    fn feed(&mut self, what: &str, sequences: &[(u32, Rows<'_>)]) -> Vec<Agreed> {
        let [metal, cpu] = [&mut self.metal, &mut self.cpu].map(|model| feed(model, sequences));
        let mut worst = 0.0;
        let agree = |(row, (metal, cpu)): (usize, (Vec<f32>, Vec<f32>))| {
            let agreed = Agreed { metal, cpu };
            worst = agreed.check(&format!("{what}, row {row}"), self.bound).max(worst);
            agreed
        };
        let agreed = metal.into_iter().zip(cpu).enumerate().map(agree).collect();
        println!("{what}: off by at most {worst:.6}, allowed {:.6}", self.bound.max);
        agreed
    }
}

/// One row's logits.
struct Agreed {
    metal: Vec<f32>,
    cpu: Vec<f32>,
}

impl Agreed {
    /// They are within the bound, and the likeliest token is the same unless the CPU's own two
    /// likeliest are nearer than the bound. The largest deviation.
    fn check(&self, what: &str, bound: Bound) -> f32 {
        let deviation = harness::deviation(&self.cpu, &self.metal).unwrap_or_else(|e| panic!("{what}: {e}"));
        let rms = (self.cpu.iter().map(|x| x * x).sum::<f32>() / self.cpu.len() as f32).sqrt();
        let (best, ahead) = best(&self.cpu);
        let same = best == self::best(&self.metal).0;
        assert!(
            deviation.max <= bound.max && deviation.rms <= bound.rms,
            "{what}: off by {deviation:?}, allowed {bound:?}"
        );
        assert!(same || ahead < bound.max * rms, "{what}: another token, which was {ahead} behind");
        deviation.max
    }
}

/// Logits of every row of the sequences.
fn feed(model: &mut LoadedModel, sequences: &[(u32, Rows<'_>)]) -> Vec<Vec<f32>> {
    let n_rows: usize = sequences.iter().map(|(_, rows)| rows.ids.len()).sum();
    let batch = Shares { groups: model.groups(), n: N }.batch(sequences, (0..n_rows as u32).collect());
    model.forward(&batch).expect("the batch fits");
    let n_vocab = model.limits().n_vocab;
    model.logits().expect("a batch has run").chunks_exact(n_vocab).map(<[f32]>::to_vec).collect()
}

/// The likeliest token, and by how much it is ahead of the next.
fn best(logits: &[f32]) -> (u32, f32) {
    let mut best = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
    for (id, &logit) in (0..).zip(logits) {
        if logit > best.1 {
            best = (id, logit, best.1);
        } else {
            best.2 = best.2.max(logit);
        }
    }
    (best.0, best.1 - best.2)
}

fn prompt(ids: &[u32], start: u32) -> Rows<'_> {
    Rows { ids, start, role: Role::Prompt }
}

fn generated(ids: &[u32], start: u32) -> Rows<'_> {
    Rows { ids, start, role: Role::Generated }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
#[ignore = "needs clang and the default model; run by `cargo xtask kernels`"]
fn it_replies_as_on_the_cpu() {
    let mut both = Both::load(KvFormat::F16);
    let mut last = both.feed("the prompt", &[(0, prompt(&PROMPT, 0))]).pop().expect("it has rows");
    for i in 0..REPLY {
        let ids = [best(&last.cpu).0];
        let rows = generated(&ids, (PROMPT.len() + i) as u32);
        last = both.feed(&format!("token {i}"), &[(0, rows)]).pop().expect("it has a row");
    }
}

#[test]
#[ignore = "needs clang and the default model; run by `cargo xtask kernels`"]
fn it_does_so_in_every_kv_format() {
    for kv in [KvFormat::Q8_0, KvFormat::Fp8] {
        let mut both = Both::load(kv);
        both.feed(&format!("{kv:?}, the prompt"), &[(0, prompt(&OTHER, 0))]);
        for (i, id) in PROMPT[..3].iter().enumerate() {
            let rows = generated(std::slice::from_ref(id), (OTHER.len() + i) as u32);
            both.feed(&format!("{kv:?}, token {i}"), &[(0, rows)]);
        }
    }
}

/// In parts, one of them a single row, a prompt leaves the bits that it leaves as a whole; so does
/// the token behind it.
#[test]
#[ignore = "needs clang and the default model; run by `cargo xtask kernels`"]
fn a_prompt_in_chunks_is_the_whole_prompt() {
    let mut both = Both::load(KvFormat::F16);
    let token = generated(&[260], PROMPT.len() as u32);
    let mut whole = feed(&mut both.metal, &[(0, prompt(&PROMPT, 0))]);
    whole.extend(feed(&mut both.metal, &[(0, token.clone())]));
    let mut chunked = Vec::new();
    for (start, end) in [(0, 5), (5, 6), (6, 13)] {
        chunked.extend(both.feed("a chunk", &[(1, prompt(&PROMPT[start..end], start as u32))]));
    }
    chunked.extend(both.feed("behind the chunks", &[(1, token)]));
    for (i, (whole, chunked)) in whole.iter().zip(&chunked).enumerate() {
        assert_eq!(bits(whole), bits(&chunked.metal), "row {i}");
    }
}

/// A sequence's bits are those that it has alone, whatever the other does beside it.
#[test]
#[ignore = "needs clang and the default model; run by `cargo xtask kernels`"]
fn two_sequences_do_not_disturb_each_other() {
    let mut both = Both::load(KvFormat::F16);
    let (ids, n) = ([260, 253, 281], PROMPT.len() as u32);
    let mut alone = vec![feed(&mut both.metal, &[(0, prompt(&PROMPT[..9], 0))]).concat()];
    alone.push(feed(&mut both.metal, &[(0, prompt(&PROMPT[9..], 9))]).concat());
    for (i, id) in (0..).zip(&ids) {
        alone.push(feed(&mut both.metal, &[(0, generated(&[*id], n + i))]).concat());
    }
    // Two prompts; a prompt beside a reply; two replies.
    let steps = [
        [(0, prompt(&PROMPT[..9], 0)), (1, prompt(&OTHER, 0))],
        [(0, prompt(&PROMPT[9..], 9)), (1, generated(&[30], 7))],
        [(0, generated(&ids[..1], n)), (1, generated(&[198], 8))],
        [(0, generated(&ids[1..2], n + 1)), (1, generated(&[504], 9))],
        [(0, generated(&ids[2..], n + 2)), (1, prompt(&OTHER, 10))],
    ];
    for (i, (step, alone)) in steps.iter().zip(&alone).enumerate() {
        let rows = both.feed(&format!("step {i}"), step);
        let first: Vec<f32> = rows[..step[0].1.ids.len()].iter().flat_map(|row| row.metal.clone()).collect();
        assert_eq!(bits(&first), bits(alone), "step {i}");
    }
}

/// A token and a draft of four behind it, in one step, have the logits that they have one by one.
#[test]
#[ignore = "needs clang and the default model; run by `cargo xtask kernels`"]
fn a_draft_is_verified_as_it_would_be_generated() {
    let mut both = Both::load(KvFormat::F16);
    let draft = [260, 253, 281, 216, 1732];
    for sequence in 0..2 {
        both.feed("the prompt", &[(sequence, prompt(&OTHER, 0))]);
    }
    let together = both.feed("the draft", &[(0, generated(&draft, 7))]);
    for (i, (id, together)) in (0..).zip(draft.iter().zip(together)) {
        let alone = feed(&mut both.metal, &[(1, generated(&[*id], 7 + i))]).concat();
        assert_eq!(bits(&alone), bits(&together.metal), "row {i}");
    }
}
