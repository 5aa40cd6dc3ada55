//! The engine over a model whose every word is known beforehand.

mod common;

use std::time::Duration;

use common::{N_VOCAB, Parrot, continuation, tokenizer};
use model::{CacheGroup, RunnerLimits};
use quarrel_engine::{
    Constraint, Engine, EngineConfig, Error, Event, FinishReason, Generation, Request, SamplingParams, Stats,
};

const LIMITS: RunnerLimits = RunnerLimits {
    n_vocab: N_VOCAB,
    max_context: 64,
    max_batch_tokens: 16,
    max_sequences: 8,
    max_outputs: 8,
};

fn full(n_pages: u32) -> CacheGroup {
    CacheGroup { n_pages, page_size: 4, window: None }
}

fn engine(groups: Vec<CacheGroup>) -> Engine {
    Engine::start(Box::new(Parrot::new(groups, LIMITS)), tokenizer(), EngineConfig::default())
}

fn request(prompt: Vec<u32>, n: usize) -> Request {
    Request { max_tokens: Some(n), sampling: SamplingParams::greedy(), ..Request::new(prompt) }
}

struct Reply {
    ids: Vec<u32>,
    text: String,
    reason: FinishReason,
    stats: Stats,
}

fn read(generation: Generation) -> Reply {
    let (mut ids, mut shown) = (Vec::new(), String::new());
    for event in generation {
        match event {
            Event::Token { id, text, .. } => {
                ids.push(id);
                shown += &text;
            }
            Event::Finished { text, reason, stats, .. } => {
                return Reply { ids, text: shown + &text, reason, stats };
            }
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("a generation ends with Finished or Failed");
}

fn prompt(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 1 + (seed * 31 + i * 7) % (N_VOCAB as u32 - 1)).collect()
}

#[test]
fn one_request_gets_the_words_and_the_text_of_the_model() {
    let engine = engine(vec![full(16)]);
    let prompt = prompt(1, 21);
    let reply = read(engine.submit(request(prompt.clone(), 10)).unwrap());
    let expected = continuation(&prompt, 10, usize::MAX);
    assert_eq!(reply.ids, expected);
    assert_eq!(reply.text, expected.iter().map(|id| format!("<{id}>")).collect::<String>());
    assert_eq!(reply.reason, FinishReason::Length);
    assert_eq!((reply.stats.prompt_tokens, reply.stats.generated_tokens), (21, 10));
}

#[test]
fn many_requests_under_page_pressure_get_the_same_words_as_alone() {
    // 16 pages of 4 hold one full context: with 12 requests of up to 50 tokens, preemption is certain.
    for groups in [vec![full(16)], vec![full(16), CacheGroup { n_pages: 12, page_size: 4, window: Some(9) }]]
    {
        let sight = groups.last().unwrap().window.map_or(usize::MAX, |w| w as usize);
        let engine = engine(groups);
        let running: Vec<_> = (0..12)
            .map(|i| {
                let prompt = prompt(i, 3 + 3 * i as usize % 31);
                let n = 5 + i as usize;
                (engine.submit(request(prompt.clone(), n)).unwrap(), prompt, n)
            })
            .collect();
        for (generation, prompt, n) in running {
            assert_eq!(read(generation).ids, continuation(&prompt, n, sight));
        }
    }
}

#[test]
fn a_second_request_finds_the_first_ones_pages() {
    let engine = engine(vec![full(16)]);
    let first = prompt(3, 18);
    let reply = read(engine.submit(request(first.clone(), 5)).unwrap());
    assert_eq!(reply.stats.cached_tokens, 0);
    let turn: Vec<u32> = first.iter().chain(&reply.ids).copied().chain([9, 9, 9]).collect();
    let reply = read(engine.submit(request(turn.clone(), 6)).unwrap());
    assert_eq!(reply.stats.cached_tokens, 20, "22 tokens were computed, 5 full pages");
    assert_eq!(reply.ids, continuation(&turn, 6, usize::MAX));
}

#[test]
fn a_stop_text_ends_the_reply_and_is_not_shown() {
    let engine = engine(vec![full(16)]);
    let prompt = prompt(5, 4);
    let expected = continuation(&prompt, 6, usize::MAX);
    let stop = format!("{}><{}", expected[3], expected[4]);
    let reply = read(engine.submit(Request { stop: vec![stop], ..request(prompt, 20) }).unwrap());
    let shown: String = expected[..3].iter().map(|id| format!("<{id}>")).collect();
    assert_eq!((reply.text, reply.reason), (shown + "<", FinishReason::Stop));
}

#[test]
fn a_cancelled_request_returns_its_pages() {
    let engine = engine(vec![full(16)]);
    let generation = engine.submit(request(prompt(1, 10), 50)).unwrap();
    generation.cancel();
    let last = generation.last();
    assert!(
        matches!(last, Some(Event::Finished { reason: FinishReason::Cancelled | FinishReason::Length, .. })),
        "{last:?}"
    );
    drop(engine.submit(request(prompt(2, 10), 50)).unwrap());
    // Fits only if both have let go of every page.
    let prompt = prompt(7, 14);
    let reply = read(engine.submit(request(prompt.clone(), 50)).unwrap());
    assert_eq!(reply.ids, continuation(&prompt, 50, usize::MAX));
}

#[test]
fn a_slow_reader_loses_nothing_and_holds_nobody_up() {
    let limits = RunnerLimits { max_context: 1024, ..LIMITS };
    let parrot = Parrot::new(vec![full(600)], limits);
    let engine = Engine::start(Box::new(parrot), tokenizer(), EngineConfig::default());
    let (slow, quick) = (prompt(1, 5), prompt(2, 5));
    let unread = engine.submit(request(slow.clone(), 900)).unwrap();
    let reply = read(engine.submit(request(quick.clone(), 30)).unwrap());
    assert_eq!(reply.ids, continuation(&quick, 30, usize::MAX));
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(read(unread).ids, continuation(&slow, 900, usize::MAX));
}

#[test]
fn a_failed_step_fails_its_requests_and_the_next_one_works() {
    let mut parrot = Parrot::new(vec![full(16)], LIMITS);
    parrot.fail_at = Some(0);
    let engine = Engine::start(Box::new(parrot), tokenizer(), EngineConfig::default());
    let last = engine.submit(request(prompt(1, 5), 5)).unwrap().last();
    assert!(matches!(last, Some(Event::Failed(Error::Model(_)))), "{last:?}");
    let reply = read(engine.submit(request(prompt(1, 5), 5)).unwrap());
    assert_eq!(reply.ids, continuation(&prompt(1, 5), 5, usize::MAX));
}

#[test]
fn more_requests_than_the_engine_takes_are_refused() {
    let parrot = Parrot::new(vec![full(600)], RunnerLimits { max_context: 2048, ..LIMITS });
    let engine = Engine::start(
        Box::new(parrot),
        tokenizer(),
        EngineConfig { max_requests: 1, ..EngineConfig::default() },
    );
    let unread = engine.submit(request(prompt(1, 5), 2000)).unwrap();
    assert!(matches!(engine.submit(request(prompt(1, 5), 5)), Err(Error::Busy { waiting: 1 })));
    drop(unread);
}

#[test]
fn several_replies_compute_their_prompt_once() {
    let engine = engine(vec![full(64)]);
    let prompt = prompt(4, 22);
    let sampling =
        SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingParams::default() };
    let request = Request { sampling, ..request(prompt, 8) };
    let alone = read(engine.submit(Request { cache_salt: 9, ..request.clone() }).unwrap());
    let replies: Vec<_> = engine.submit_choices(request, 3).unwrap().into_iter().map(read).collect();
    assert_eq!(replies[0].ids, alone.ids, "the first reply is the one that a single request gets");
    assert_ne!(replies[1].ids, replies[0].ids);
    assert_ne!(replies[1].ids, replies[2].ids);
    let cached: Vec<_> = replies.iter().map(|reply| reply.stats.cached_tokens).collect();
    assert_eq!(cached, [0, 20, 20], "another salt has found nothing, the other replies five pages");
}

#[test]
fn a_larger_priority_starts_first() {
    let limits = RunnerLimits { max_sequences: 1, max_context: 512, ..LIMITS };
    let parrot = Parrot::new(vec![full(300)], limits);
    let gate = parrot.gate.clone();
    let engine = Engine::start(Box::new(parrot), tokenizer(), EngineConfig::default());
    // No step ends before all three are there.
    let held = gate.lock().unwrap();
    let first = engine.submit(request(prompt(1, 5), 100)).unwrap();
    let [low, high] = [0, 1].map(|priority| Request { priority, ..request(prompt(2, 5), 100) });
    let low = engine.submit(low).unwrap();
    let high = engine.submit(high).unwrap();
    drop(held);
    let (high, low) = (read(high), read(low));
    read(first);
    assert!(high.stats.queued < low.stats.queued, "{:?} {:?}", high.stats, low.stats);
}

#[test]
fn who_waits_too_long_is_told() {
    let limits = RunnerLimits { max_sequences: 1, max_context: 4096, ..LIMITS };
    let engine =
        Engine::start(Box::new(Parrot::new(vec![full(2000)], limits)), tokenizer(), EngineConfig::default());
    let first = engine.submit(request(prompt(1, 5), 4000)).unwrap();
    let late = Request { start_within: Some(Duration::ZERO), ..request(prompt(2, 5), 1) };
    let last = engine.submit(late).unwrap().last();
    assert!(matches!(last, Some(Event::Failed(Error::Overdue { .. }))), "{last:?}");
    drop(first);
}

#[test]
fn a_stop_token_and_log_probabilities() {
    let engine = engine(vec![full(16)]);
    let prompt = prompt(5, 4);
    let expected = continuation(&prompt, 6, usize::MAX);
    let stop = Request { stop_ids: vec![expected[3]], logprobs: Some(2), ..request(prompt, 20) };
    let mut ids = Vec::new();
    for event in engine.submit(stop).unwrap() {
        match event {
            Event::Token { id, logprob, .. } => {
                let logprob = logprob.expect("it was asked for");
                assert_eq!((logprob.top.len(), logprob.top[0]), (2, (id, logprob.logprob)));
                ids.push(id);
            }
            Event::Finished { reason, .. } => assert_eq!(reason, FinishReason::Stop),
            Event::Failed(error) => panic!("{error}"),
        }
    }
    assert_eq!(ids, expected[..3]);
}

#[test]
fn a_constrained_reply_has_its_form_and_ends() {
    let engine = engine(vec![full(64)]);
    let constraint = Constraint::regex("(<3><5>){2,3}").unwrap();
    let request = Request { constraint: Some(constraint), ignore_eos: true, ..request(prompt(4, 6), 20) };
    for generation in engine.submit_choices(request, 2).unwrap() {
        let reply = read(generation);
        assert_eq!(reply.reason, FinishReason::EndOfText, "{}", reply.text);
        assert!(["<3><5><3><5>", "<3><5><3><5><3><5>"].contains(&reply.text.as_str()), "{}", reply.text);
    }
}

#[test]
fn when_every_token_is_banned_the_request_fails() {
    let engine = engine(vec![full(16)]);
    let mut banned = request(prompt(1, 5), 5);
    banned.sampling.logit_bias = (0..N_VOCAB as u32).map(|id| (id, f32::NEG_INFINITY)).collect();
    let last = engine.submit(banned).unwrap().last();
    assert!(matches!(last, Some(Event::Failed(Error::NoToken))), "{last:?}");
    let mut unknown = request(prompt(1, 5), 5);
    unknown.sampling.logit_bias = vec![(N_VOCAB as u32, 1.0)];
    assert!(matches!(engine.submit(unknown), Err(Error::UnknownToken { .. })));
}
