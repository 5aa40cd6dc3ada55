//! With `deterministic`, what a reply is to the bit depends on its request
//! alone: not on what the cache holds, nor on being preempted.

mod common;

use backend::Backend;
use model::{LoadOptions, testing};
use quarrel_engine::{Engine, EngineConfig, Event, Generation, Request, SamplingParams, TokenLogprob};

/// Opens a device.
type Open = fn() -> Box<dyn Backend>;

fn engine(open: Open, name: &str, max_sequences: usize, deterministic: bool) -> Engine {
    let file = testing::tiny(name, 1).expect("the name is known");
    let options = LoadOptions {
        context: Some(128),
        max_batch_tokens: 24,
        // The pool holds as many full contexts.
        max_sequences,
        max_outputs: max_sequences,
        ..LoadOptions::default()
    };
    let loaded = model::load(&file, open(), &options).expect("tiny models load");
    let config = EngineConfig { deterministic, ..EngineConfig::default() };
    Engine::start(Box::new(loaded), common::tokenizer(), config)
}

fn request(prompt: Vec<u32>, n: usize) -> Request {
    let sampling = SamplingParams { temperature: 1.0, seed: 5, ..SamplingParams::default() };
    Request { max_tokens: Some(n), sampling, ignore_eos: true, logprobs: Some(3), ..Request::new(prompt) }
}

/// Tokens, log-probabilities and all, and how many of the prompt the cache held.
type Reply = (Vec<(u32, Option<TokenLogprob>)>, usize);

fn read(generation: Generation) -> Reply {
    let mut tokens = vec![];
    for event in generation {
        match event {
            Event::Token { id, logprob, .. } => tokens.push((id, logprob)),
            Event::Finished { stats, .. } => return (tokens, stats.cached_tokens),
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("a generation ends with Finished or Failed");
}

fn alone(open: Open, name: &str, request: &Request) -> Reply {
    read(engine(open, name, 1, true).submit(request.clone()).unwrap())
}

fn a_second_turn_is_computed_as_if_it_were_the_first(open: Open, names: &[&str]) {
    for &name in names {
        let first = request(testing::tiny_tokens(20, 1), 60);
        let mut cached = vec![];
        for deterministic in [true, false] {
            let engine = engine(open, name, 1, deterministic);
            let (reply, _) = read(engine.submit(first.clone()).unwrap());
            let turn = first.prompt.iter().copied().chain(reply.iter().map(|(id, _)| *id));
            let second = request(turn.chain([7, 8, 9]).collect(), 20);
            let found = read(engine.submit(second.clone()).unwrap());
            if deterministic {
                assert_eq!(found.0, alone(open, name, &second).0, "{name}");
                // The prompt's own pages are found again.
                let again = read(engine.submit(second.clone()).unwrap());
                assert_eq!((again.0, again.1), (found.0, 64), "{name}");
            }
            cached.push(found.1);
        }
        // 79 tokens are in the cache after the first turn, of which generating wrote all but 20.
        assert_eq!(cached, [0, 64], "{name}");
    }
}

fn who_is_preempted_says_the_same(open: Open) {
    for name in ["llama", "gemma3"] {
        let requests: Vec<_> = (0..10)
            .map(|i| {
                // Some begin alike, so that they find each other's pages.
                let prompt = testing::tiny_tokens(10 + 5 * i, (i / 3) as u64);
                request(prompt, 60 + i)
            })
            .collect();
        let expected: Vec<_> = requests.iter().map(|request| alone(open, name, request).0).collect();
        // Room for two full contexts, and for more short ones: some lose their pages.
        let engine = engine(open, name, 2, true);
        for _ in 0..2 {
            let running: Vec<_> =
                requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
            for (generation, expected) in running.into_iter().zip(&expected) {
                assert!(&read(generation).0 == expected, "{name}");
            }
        }
    }
}

mod cpu {
    use super::common::cpu;

    #[test]
    fn a_second_turn_is_computed_as_if_it_were_the_first() {
        super::a_second_turn_is_computed_as_if_it_were_the_first(cpu, &["llama", "gemma3", "qwen3moe"]);
    }

    #[test]
    fn who_is_preempted_says_the_same() {
        super::who_is_preempted_says_the_same(cpu);
    }
}

mod cuda {
    use super::common::cuda;

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn a_second_turn_is_computed_as_if_it_were_the_first() {
        super::a_second_turn_is_computed_as_if_it_were_the_first(cuda, &["llama", "gemma3"]);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn who_is_preempted_says_the_same() {
        super::who_is_preempted_says_the_same(cuda);
    }
}
