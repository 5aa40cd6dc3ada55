//! A model small enough to predict by hand, behind the real runner interface.

#![allow(dead_code, reason = "each test file uses a part of this")]

pub mod delayed;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use backend::Backend;
use gguf::{Array, Metadata};
use model::{CacheGroup, ForwardBatch, ModelRunner, NO_PAGE, RunnerLimits, TokenInputs};
use tokenizer::Tokenizer;

/// Size of the vocabulary: token `i` reads as `<i>`, token 0 ends the text.
pub const N_VOCAB: usize = 64;

/// Stores in each cache slot the token and position that were written there,
/// and predicts from what it reads back through the block tables. Wrong slots,
/// tables, positions or page sharing therefore change its words or fail a check.
pub struct Parrot {
    pub limits: RunnerLimits,
    pub groups: Vec<CacheGroup>,
    slots: Vec<HashMap<u32, (u32, u32)>>,
    logits: Vec<f32>,
    pub steps: Arc<AtomicUsize>,
    /// Fails the step with this number.
    pub fail_at: Option<usize>,
    /// Steps wait while somebody holds it.
    pub gate: Arc<Mutex<()>>,
}

impl Parrot {
    pub fn new(groups: Vec<CacheGroup>, limits: RunnerLimits) -> Self {
        let slots = vec![HashMap::new(); groups.len()];
        Self {
            limits,
            groups,
            slots,
            logits: Vec::new(),
            steps: Arc::default(),
            fail_at: None,
            gate: Arc::default(),
        }
    }
}

/// The token that follows `context` when the model sees its last `sight` tokens.
pub fn next_token(context: &[u32], sight: usize) -> u32 {
    let seen = &context[context.len().saturating_sub(sight)..];
    let hash =
        seen.iter().fold(context.len() as u64, |h, &t| (h ^ u64::from(t)).wrapping_mul(0x0100_0000_01b3));
    1 + (hash >> 7) as u32 % (N_VOCAB as u32 - 1)
}

/// What `n` tokens after `prompt` must be.
pub fn continuation(prompt: &[u32], n: usize, sight: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        tokens.push(next_token(&tokens, sight));
    }
    tokens.split_off(prompt.len())
}

impl ModelRunner for Parrot {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn groups(&self) -> &[CacheGroup] {
        &self.groups
    }

    fn forward(&mut self, batch: &ForwardBatch) -> model::Result<()> {
        drop(self.gate.lock());
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        if self.fail_at == Some(step) {
            return Err(model::Error::Tensor { name: "parrot".into(), problem: "was told to fail".into() });
        }
        let TokenInputs::Ids(ids) = &batch.tokens else { panic!("the engine sends ids") };
        assert!(!ids.is_empty() && ids.len() <= self.limits.max_batch_tokens);
        assert!(batch.sequences.len() <= self.limits.max_sequences);
        for (slots, inputs) in self.slots.iter_mut().zip(&batch.groups) {
            for ((&slot, &id), &position) in inputs.slots.iter().zip(ids).zip(&batch.positions) {
                slots.insert(slot, (id, position));
            }
        }
        self.logits.clear();
        let mut row = 0;
        for (i, sequence) in batch.sequences.iter().enumerate() {
            row += sequence.n_rows;
            if batch.outputs.contains(&(row - 1)) {
                let token = self.predict(batch, i, sequence.n_context as usize);
                self.logits.extend((0..N_VOCAB as u32).map(|id| if id == token { 1.0 } else { 0.0 }));
            }
        }
        assert_eq!(self.logits.len(), batch.outputs.len() * N_VOCAB);
        Ok(())
    }

    fn logits(&mut self) -> model::Result<&[f32]> {
        Ok(&self.logits)
    }

    fn copy_pages(&mut self, _group: usize, _pages: &[(u32, u32)]) -> model::Result<()> {
        unreachable!("nothing forks yet")
    }

    fn description(&self) -> String {
        "parrot".into()
    }
}

impl Parrot {
    fn predict(&self, batch: &ForwardBatch, sequence: usize, n_context: usize) -> u32 {
        let mut sight = usize::MAX;
        let mut context = vec![u32::MAX; n_context];
        for ((group, slots), inputs) in self.groups.iter().zip(&self.slots).zip(&batch.groups) {
            let window = group.window.map_or(usize::MAX, |w| w as usize);
            sight = sight.min(window);
            let table = &inputs.block_tables[sequence * inputs.max_pages..][..inputs.max_pages];
            for position in n_context.saturating_sub(window)..n_context {
                let page = table[position / group.page_size as usize];
                assert_ne!(page, NO_PAGE, "position {position} is in sight");
                let slot = page * group.page_size + position as u32 % group.page_size;
                let (token, at) = slots[&slot];
                assert_eq!(at as usize, position, "the slot holds another position");
                context[position] = token;
            }
        }
        next_token(&context, sight)
    }
}

/// The tokeniser that goes with it: SentencePiece pieces `<1>` …, no spaces added.
pub fn tokenizer() -> Arc<Tokenizer> {
    let mut metadata = Metadata::new();
    let mut tokens: Vec<String> = (0..N_VOCAB).map(|i| format!("<{i}>")).collect();
    tokens[0] = "</s>".into();
    let mut types = vec![1i32; N_VOCAB];
    types[0] = 3;
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.insert("tokenizer.ggml.scores", Array::F32(vec![0.0; N_VOCAB]));
    metadata.insert("tokenizer.ggml.token_type", Array::I32(types));
    metadata.insert("tokenizer.ggml.bos_token_id", 0u32);
    metadata.insert("tokenizer.ggml.eos_token_id", 0u32);
    metadata.insert("tokenizer.ggml.unknown_token_id", 0u32);
    metadata.insert("tokenizer.ggml.add_space_prefix", false);
    Arc::new(Tokenizer::from_metadata(&metadata).expect("the vocabulary is valid"))
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
