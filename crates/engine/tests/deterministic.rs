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

/// As [`request`], each token the likeliest, which a device chooses itself.
fn drawn(prompt: Vec<u32>, n: usize) -> Request {
    Request { sampling: SamplingParams::greedy(), logprobs: None, ..request(prompt, n) }
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

/// Ten replies of about 60 tokens, some of which begin alike, so that they find each other's pages.
fn ten(request: fn(Vec<u32>, usize) -> Request) -> Vec<Request> {
    (0..10).map(|i| request(testing::tiny_tokens(10 + 5 * i, (i / 3) as u64), 60 + i)).collect()
}

fn who_is_preempted_says_the_same(open: Open) {
    let kinds: [fn(Vec<u32>, usize) -> Request; 2] = [request, drawn];
    for (name, request) in ["llama", "gemma3"].into_iter().flat_map(|name| kinds.map(|kind| (name, kind))) {
        let requests = ten(request);
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

/// Who leaves while the device works on his next token disturbs nobody, and his pages come back.
fn who_leaves_changes_nothing(open: Open) {
    let requests = ten(drawn);
    let expected: Vec<_> = requests.iter().map(|request| alone(open, "llama", request).0).collect();
    let engine = engine(open, "llama", 2, true);
    for round in 0..3 {
        let mut running: Vec<_> =
            requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        let mut leaving = running.split_off(5 + round);
        let heard = leaving.iter_mut().filter_map(Generation::next).count();
        assert_eq!(heard, 5 - round);
        drop(leaving);
        for (generation, expected) in running.into_iter().zip(&expected) {
            assert!(&read(generation).0 == expected, "round {round}");
        }
    }
    // One full context after the other: not a page is lost.
    for seed in 0..4 {
        let whole = drawn(testing::tiny_tokens(100, 50 + seed), 27);
        assert!(read(engine.submit(whole.clone()).unwrap()).0 == alone(open, "llama", &whole).0);
    }
}

/// Replies to one request share its prompt's pages; the first is the one that a single request gets.
fn replies_share_their_prompt(open: Open) {
    let request = request(testing::tiny_tokens(70, 3), 40);
    let engine = engine(open, "llama", 4, true);
    let replies: Vec<_> = engine.submit_choices(request.clone(), 3).unwrap().into_iter().map(read).collect();
    assert!(replies[0].0 == alone(open, "llama", &request).0);
    assert!(replies[1].0 != replies[0].0 && replies[2].0 != replies[1].0);
    assert_eq!(replies.iter().map(|reply| reply.1).collect::<Vec<_>>(), [0, 64, 64]);
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

    #[test]
    fn who_leaves_changes_nothing() {
        super::who_leaves_changes_nothing(cpu);
    }

    #[test]
    fn replies_share_their_prompt() {
        super::replies_share_their_prompt(cpu);
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

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn who_leaves_changes_nothing() {
        super::who_leaves_changes_nothing(cuda);
    }

    #[test]
    #[ignore = "needs a CUDA device; run by `cargo xtask gpu`"]
    fn replies_share_their_prompt() {
        super::replies_share_their_prompt(cuda);
    }
}
