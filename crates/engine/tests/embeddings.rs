//! Embeddings by real if tiny models, against what one whole step gives.

mod common;

use backend::Backend;
use common::cpu;
use model::{LoadOptions, LoadedModel, ModelRunner as _, Role, single, testing};
use quarrel_engine::{
    EmbeddingRequest, Engine, EngineConfig, Error, Event, Pooling, Request, SamplingParams,
};

const CONTEXT: u32 = 128;
const POOLINGS: [Pooling; 3] = [Pooling::Last, Pooling::Mean, Pooling::First];

/// Opens a device.
type Open = fn() -> Box<dyn Backend>;

fn load(open: Open, name: &str, max_batch_tokens: usize, max_sequences: usize) -> LoadedModel {
    let file = testing::tiny(name, 1).expect("the name is known");
    let options = LoadOptions {
        context: Some(CONTEXT),
        max_batch_tokens,
        max_sequences,
        max_outputs: max_sequences,
        ..LoadOptions::default()
    };
    model::load(&file, open(), &options).expect("tiny models load")
}

fn engine(open: Open, name: &str, max_batch_tokens: usize, max_sequences: usize) -> Engine {
    let loaded = load(open, name, max_batch_tokens, max_sequences);
    Engine::start(Box::new(loaded), common::tokenizer(), EngineConfig::default())
}

/// The pooled hidden states of a prompt that runs whole and alone, the slow way.
fn expected(model: &mut LoadedModel, prompt: &[u32], pooling: Pooling, normalise: bool) -> Vec<f32> {
    let rows = single::Rows { ids: prompt, start: 0, role: Role::Prompt };
    let batch = single::batch(model.groups(), &rows, vec![]);
    model.forward_hidden(&batch).expect("the batch fits");
    let hidden = model.hidden().expect("the batch kept them");
    let n_embd = hidden.len() / prompt.len();
    let column = |i: usize| hidden.iter().skip(i).step_by(n_embd).map(|&x| f64::from(x));
    let pooled: Vec<f64> = (0..n_embd)
        .map(|i| match pooling {
            Pooling::Last => column(i).next_back().expect("a prompt is not empty"),
            Pooling::First => column(i).next().expect("a prompt is not empty"),
            Pooling::Mean => column(i).sum::<f64>() / prompt.len() as f64,
        })
        .collect();
    let norm = if normalise { pooled.iter().map(|x| x * x).sum::<f64>().sqrt() } else { 1.0 };
    pooled.iter().map(|x| (x / norm) as f32).collect()
}

fn prompts() -> Vec<Vec<u32>> {
    (0..8).map(|i| testing::tiny_tokens([3, 100, 1, 70, 31, 64, 90, 128][i as usize], i / 2)).collect()
}

fn request(prompt: &[u32], pooling: Pooling, normalise: bool) -> EmbeddingRequest {
    EmbeddingRequest { pooling: Some(pooling), normalise, ..EmbeddingRequest::new(prompt.to_vec()) }
}

/// Scaling to length 1 divides a sum or a mean: the same but for one rounding.
fn agree(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1e-3))
}

/// Of models with full attention, and with windows, whose pages are freed on the way.
fn they_are_those_of_one_whole_step(open: Open, names: &[&str]) {
    for &name in names {
        let mut whole = load(open, name, CONTEXT as usize, 1);
        for (prompt, pooling) in prompts().iter().zip(POOLINGS.into_iter().cycle()) {
            for normalise in [true, false] {
                let engine = engine(open, name, 16, 4);
                let embedding = engine.embed(request(prompt, pooling, normalise)).unwrap().wait().unwrap();
                let expected = expected(&mut whole, prompt, pooling, normalise);
                assert!(agree(&embedding.values, &expected), "{name} {pooling:?}");
                assert_eq!(embedding.stats.prompt_tokens, prompt.len());
            }
        }
    }
}

/// Alone in one chunk, or in company of others and of replies, in chunks, after
/// preemption and with prompts in the cache: no bit differs.
fn company_chunks_and_the_cache_change_no_bit(open: Open) {
    for name in ["llama", "gemma3"] {
        let embed_alone = |prompt: &Vec<u32>, pooling| {
            let engine = engine(open, name, CONTEXT as usize, 1);
            engine.embed(request(prompt, pooling, true)).unwrap().wait().unwrap().values
        };
        let alone: Vec<_> =
            prompts().iter().map(|prompt| POOLINGS.map(|pooling| embed_alone(prompt, pooling))).collect();
        for (max_batch_tokens, max_sequences) in [(7, 2), (48, 4), (128, 8)] {
            let engine = engine(open, name, max_batch_tokens, max_sequences);
            for round in 0..2 {
                let reply = Request {
                    max_tokens: Some(30),
                    ignore_eos: true,
                    sampling: SamplingParams::greedy(),
                    ..Request::new(testing::tiny_tokens(40, 9))
                };
                let reply = engine.submit(reply).unwrap();
                let pending: Vec<_> = prompts()
                    .iter()
                    .map(|prompt| POOLINGS.map(|p| engine.embed(request(prompt, p, true)).unwrap()))
                    .collect();
                for (pending, alone) in pending.into_iter().zip(&alone) {
                    for (pending, alone) in pending.into_iter().zip(alone) {
                        let embedding = pending.wait().unwrap();
                        assert!(&embedding.values == alone, "{name}, round {round}");
                    }
                }
                assert!(matches!(reply.last(), Some(Event::Finished { .. })));
            }
        }
    }
}

#[test]
fn only_the_last_token_alone_uses_the_prefix_cache() {
    let engine = engine(cpu, "llama", 64, 2);
    let prompt = &testing::tiny_tokens(100, 3);
    let cached =
        |pooling| engine.embed(request(prompt, pooling, true)).unwrap().wait().unwrap().stats.cached_tokens;
    assert_eq!(POOLINGS.map(cached), [0, 0, 0]);
    assert_eq!(POOLINGS.map(cached), [96, 0, 0], "three pages of 32");
}

#[test]
fn pages_come_back_from_dropped_requests() {
    let engine = engine(cpu, "llama", 8, 1);
    let prompt = &testing::tiny_tokens(CONTEXT as usize, 1);
    for _ in 0..50 {
        drop(engine.embed(request(prompt, Pooling::Mean, true)).unwrap());
    }
    // The pool holds one full context.
    engine.embed(request(prompt, Pooling::Mean, true)).unwrap().wait().unwrap();
    // The answer comes a moment before the place is free.
    let begun = std::time::Instant::now();
    while engine.load().running + engine.load().waiting > 0 {
        assert!(begun.elapsed().as_secs() < 10, "a dropped request stays");
        std::thread::yield_now();
    }
}

#[test]
fn what_can_never_run_is_refused() {
    let engine = engine(cpu, "llama", 64, 2);
    assert_eq!(engine.embedding().map(|shape| shape.pooling), Some(Pooling::Last));
    let error = |prompt| engine.embed(EmbeddingRequest::new(prompt)).err();
    assert!(matches!(error(vec![]), Some(Error::EmptyPrompt)));
    assert!(matches!(error(vec![1 << 20]), Some(Error::UnknownToken { .. })));
    assert!(matches!(error(vec![1; 129]), Some(Error::ContextExceeded { prompt: 129, max_tokens: 0, .. })));
    let limits = *engine.limits();
    let parrot = common::Parrot::new(vec![], limits);
    let engine = Engine::start(Box::new(parrot), common::tokenizer(), EngineConfig::default());
    assert!(matches!(engine.embed(EmbeddingRequest::new(vec![1])), Err(Error::NoEmbeddings)));
}

mod on_the_cpu {
    use super::common::cpu;

    #[test]
    fn they_are_those_of_one_whole_step() {
        super::they_are_those_of_one_whole_step(cpu, &["llama", "gemma3", "qwen3moe"]);
    }

    #[test]
    fn company_chunks_and_the_cache_change_no_bit() {
        super::company_chunks_and_the_cache_change_no_bit(cpu);
    }
}

mod cuda {
    use super::common::cuda;

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn they_are_those_of_one_whole_step() {
        super::they_are_those_of_one_whole_step(cuda, &["llama", "gemma3"]);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn company_chunks_and_the_cache_change_no_bit() {
        super::company_chunks_and_the_cache_change_no_bit(cuda);
    }
}
