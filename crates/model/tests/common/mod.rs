//! Sequences with pages of their own, so that tests can batch, chunk and shuffle as they like.

#![allow(dead_code, reason = "each test file uses a part of it")]

use backend::{Backend, GroupInputs, KvFormat, Role, SequenceInputs, StepInputs, TokenInputs};
use quarrel_model::{Error, LoadOptions, LoadedModel, ModelRunner, load, testing};

/// The seed of models and tokens in all committed goldens.
pub const SEED: u64 = 1;

/// Of each position's logits the goldens hold every `STRIDE`-th.
pub const STRIDE: usize = 6;

/// Two computations in f32 (the reference: f64 between ops) over one to seven
/// layers of width 64 to 96 differ by some tens of roundings of 2^-24 around
/// values of size one.
pub const ROUNDINGS: f32 = 100.0 / (1 << 24) as f32;

/// Logits another engine made: `tiny` by llama.cpp, `hf` by transformers.
pub fn golden(kind: &str, name: &str) -> Option<Vec<f32>> {
    let path = format!("{}/tests/data/{kind}/{name}.f32", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).ok()?;
    Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// Test models keep f32 caches: bounds then measure the arithmetic only.
pub const OPTIONS: LoadOptions = LoadOptions {
    context: Some(64),
    kv_k: KvFormat::F32,
    kv_v: KvFormat::F32,
    max_batch_tokens: 64,
    max_sequences: 2,
    kv_memory: None,
    max_outputs: 64,
    memory: None,
};

pub fn reference() -> Box<dyn Backend> {
    Box::new(backend::Reference::new())
}

pub fn cpu() -> Box<dyn Backend> {
    Box::new(backend::Cpu::new(backend::CpuConfig::default()).expect("every machine has a CPU"))
}

/// The first CUDA device; `QUARREL_TEST_NVRTC` names the compiler where it is not among the
/// system's libraries.
pub fn cuda() -> Box<dyn Backend> {
    let nvrtc = std::env::var_os("QUARREL_TEST_NVRTC").map(Into::into);
    Box::new(backend::harness::cuda(nvrtc).unwrap_or_else(|e| panic!("{e}")))
}

/// The tiny models that a backend has all kernels for; it says which it has not.
pub fn tiny_names(backend: fn() -> Box<dyn Backend>) -> Vec<&'static str> {
    let has_kernels = |name: &&str| {
        let file = testing::tiny(name, SEED).expect("the name is from the list");
        match load(&file, backend(), &OPTIONS) {
            Err(Error::Backend(error @ backend::Error::Absent { .. })) => {
                println!("{name}: {error}");
                false
            }
            _ => true,
        }
    };
    testing::tiny_names().filter(has_kernels).collect()
}

pub fn tiny(name: &str, backend: Box<dyn Backend>, options: &LoadOptions) -> LoadedModel {
    let file = testing::tiny(name, SEED).expect("the name is from the list");
    load(&file, backend, options).expect("tiny models load")
}

/// One sequence: its tokens so far and the pages it owns in each group.
pub struct Sequence {
    pub n_context: u32,
    /// `[groups][logical page]`
    pub pages: Vec<Vec<u32>>,
}

impl Sequence {
    /// The `index`-th of `n` sequences that share the pools evenly, pages in order.
    pub fn new(model: &LoadedModel, index: u32, n: u32) -> Self {
        let pages = model.groups().iter().map(|group| {
            let share = group.n_pages / n;
            (index * share..(index + 1) * share).collect()
        });
        Self { n_context: 0, pages: pages.collect() }
    }

    /// The same, pages in reverse order.
    pub fn reversed(mut self) -> Self {
        self.pages.iter_mut().for_each(|pages| pages.reverse());
        self
    }
}

/// A batch that appends `ids` to each sequence and asks for all their logits.
pub fn batch(model: &LoadedModel, rows: &mut [(&mut Sequence, &[u32], Role)]) -> StepInputs {
    let mut ids = vec![];
    let mut positions = vec![];
    let mut sequences = vec![];
    let mut groups = vec![GroupInputs::default(); model.groups().len()];
    for group in &mut groups {
        group.max_pages = rows.iter().map(|(sequence, ..)| sequence.pages[0].len()).max().expect("some row");
    }
    for (sequence, new, role) in rows {
        let (start, end) = (sequence.n_context, sequence.n_context + new.len() as u32);
        ids.extend_from_slice(new);
        positions.extend(start..end);
        sequences.push(SequenceInputs { n_rows: new.len() as u32, n_context: end, role: *role });
        for ((inputs, pages), group) in groups.iter_mut().zip(&sequence.pages).zip(model.groups()) {
            let size = group.page_size;
            inputs.slots.extend((start..end).map(|p| pages[(p / size) as usize] * size + p % size));
            inputs.block_tables.extend(pages);
            let missing = inputs.max_pages - pages.len();
            inputs.block_tables.extend(std::iter::repeat_n(backend::NO_PAGE, missing));
        }
        sequence.n_context = end;
    }
    let outputs = (0..ids.len() as u32).collect();
    StepInputs { tokens: TokenInputs::Ids(ids), positions, sequences, groups, outputs, adapter: None }
}

/// Runs `ids` after what the sequence holds; `[ids, n_vocab]` logits.
pub fn run(model: &mut LoadedModel, sequence: &mut Sequence, ids: &[u32], role: Role) -> Vec<f32> {
    let inputs = batch(model, &mut [(sequence, ids, role)]);
    model.forward(&inputs).expect("the batch fits");
    model.logits().expect("a batch has run").to_vec()
}

/// Largest difference.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}
