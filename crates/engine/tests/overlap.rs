//! The loop one step behind a device that takes random times: the same words as
//! a model that is waited for, whatever ends late, and every page back.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::delayed::{Delayed, MAX_LIKELIEST};
use common::{N_VOCAB, Parrot, continuation, tokenizer};
use model::{CacheGroup, RunnerLimits};
use quarrel_engine::{
    Engine, EngineConfig, Error, Event, FinishReason, Generation, PenaltyParams, Request, SamplingParams,
};

const LIMITS: RunnerLimits = RunnerLimits {
    n_vocab: N_VOCAB,
    max_context: 64,
    max_batch_tokens: 16,
    max_sequences: 8,
    max_outputs: 8,
};

/// 16 pages hold one full context: requests side by side are preempted.
fn groups(windowed: bool) -> Vec<CacheGroup> {
    let full = CacheGroup { n_pages: 16, page_size: 4, window: None };
    let window = CacheGroup { n_pages: 12, page_size: 4, window: Some(9) };
    if windowed { vec![full, window] } else { vec![full] }
}

struct Counts {
    overlapped: Arc<AtomicUsize>,
    carried: Arc<AtomicUsize>,
    likeliest: Arc<AtomicUsize>,
}

fn engine(parrot: Parrot, seed: u64) -> (Engine, Counts) {
    let delayed = Delayed::new(parrot, seed);
    let counts = Counts {
        overlapped: delayed.overlapped.clone(),
        carried: delayed.carried.clone(),
        likeliest: delayed.likeliest.clone(),
    };
    (Engine::start(Box::new(delayed), tokenizer(), EngineConfig::default()), counts)
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (self.0 >> 33) as usize % n
    }
}

/// How a reply ends, and whether the host chooses its tokens.
struct Case {
    request: Request,
    /// The tokens that must be told.
    ids: Vec<u32>,
    text: String,
    reason: FinishReason,
    /// Cancelled after so many tokens: an event or more may still come.
    cancel_after: Option<usize>,
}

fn text(ids: &[u32]) -> String {
    ids.iter().map(|id| format!("<{id}>")).collect()
}

fn case(random: &mut Random, sight: usize) -> Case {
    let n_prompt = 1 + random.below(30);
    let prompt: Vec<u32> = (0..n_prompt).map(|_| 1 + random.below(N_VOCAB - 1) as u32).collect();
    let n = 1 + random.below(64 - n_prompt);
    let mut ids = continuation(&prompt, n, sight);
    let mut request =
        Request { max_tokens: Some(n), sampling: SamplingParams::greedy(), ..Request::new(prompt) };
    match random.below(4) {
        // The host chooses; a penalty of one part in a thousand changes no choice.
        0 => request.logprobs = Some(1),
        1 => request.sampling.penalties = PenaltyParams { frequency: 0.001, ..PenaltyParams::default() },
        _ => {}
    }
    let at = random.below(n);
    let (mut reason, mut cancel_after) = (FinishReason::Length, None);
    let mut shown = text(&ids);
    match random.below(5) {
        0 => {
            request.stop_ids = vec![ids[at]];
            let first = ids.iter().position(|id| *id == ids[at]).expect("it is there");
            ids.truncate(first);
            (shown, reason) = (text(&ids), FinishReason::Stop);
        }
        1 => {
            // A stop text over the boundary of two tokens, where there are two.
            let stop =
                if at + 1 < n { format!("{}><{}", ids[at], ids[at + 1]) } else { format!("{}>", ids[at]) };
            let place = shown.find(&stop).expect("it is there");
            let upto = shown[..place + stop.len()].matches('<').count();
            shown.truncate(place);
            ids.truncate(upto);
            request.stop = vec![stop];
            reason = FinishReason::Stop;
        }
        2 => cancel_after = Some(at),
        _ => {}
    }
    Case { request, ids, text: shown, reason, cancel_after }
}

fn check(case: &Case, generation: &mut Generation, random: &mut Random) {
    let (mut ids, mut shown) = (vec![], String::new());
    if case.cancel_after == Some(0) {
        generation.cancel();
    }
    while let Some(event) = generation.next() {
        match event {
            Event::Token { id, text, .. } => {
                ids.push(id);
                shown += &text;
                if case.cancel_after == Some(ids.len()) {
                    generation.cancel();
                }
                if random.below(20) == 0 {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
            Event::Finished { text, reason, stats, .. } => {
                shown += &text;
                if reason == FinishReason::Cancelled {
                    assert!(case.cancel_after.is_some());
                    assert!(case.ids.starts_with(&ids) && case.text.starts_with(&shown));
                } else {
                    assert_eq!((&ids, &shown, reason), (&case.ids, &case.text, case.reason));
                    let ended_by_id = usize::from(!case.request.stop_ids.is_empty());
                    assert_eq!(stats.generated_tokens, ids.len() + ended_by_id, "no extra token is counted");
                }
                return;
            }
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("a generation ends with Finished or Failed");
}

#[test]
fn late_ends_and_cancels_are_undone() {
    let mut steps = (0, 0);
    for seed in 0..60 {
        let windowed = seed % 2 == 1;
        let sight = if windowed { 9 } else { usize::MAX };
        let random = &mut Random(seed);
        let (engine, counts) = engine(Parrot::new(groups(windowed), LIMITS), seed);
        let cases: Vec<Case> = (0..12).map(|_| case(random, sight)).collect();
        let submit = |case: &Case| engine.submit(case.request.clone()).unwrap();
        // These callers go without a word.
        let gone: Vec<_> = cases.iter().map(submit).collect();
        let mut running: Vec<_> = cases.iter().map(submit).collect();
        drop(gone);
        for (case, generation) in cases.iter().zip(&mut running) {
            check(case, generation, random);
        }
        // Fits only if all have let go of every page.
        let prompt = vec![7; 14];
        let whole = Request {
            max_tokens: Some(50),
            sampling: SamplingParams::greedy(),
            ..Request::new(prompt.clone())
        };
        let ids: Vec<u32> = engine
            .submit(whole)
            .unwrap()
            .filter_map(|event| match event {
                Event::Token { id, .. } => Some(id),
                _ => None,
            })
            .collect();
        assert_eq!(ids, continuation(&prompt, 50, sight));
        assert_eq!(engine.load().running + engine.load().waiting, 0);
        steps.0 += counts.overlapped.load(Ordering::Relaxed);
        steps.1 += counts.carried.load(Ordering::Relaxed);
    }
    assert!(steps.0 > 3000 && steps.1 > 3000, "{steps:?}: too tame");
}

#[test]
fn a_reply_alone_is_always_one_step_ahead() {
    let (engine, counts) = engine(Parrot::new(groups(false), LIMITS), 1);
    let request =
        Request { max_tokens: Some(40), sampling: SamplingParams::greedy(), ..Request::new(vec![5; 10]) };
    let n = engine.submit(request.clone()).unwrap().count();
    assert_eq!(n, 41);
    assert_eq!(counts.carried.load(Ordering::Relaxed), 39, "all but the first token are run unseen");
    // The host chooses: nothing runs before it has.
    let n = engine.submit(Request { logprobs: Some(0), ..request }).unwrap().count();
    assert_eq!((n, counts.carried.load(Ordering::Relaxed)), (41, 39));
}

#[test]
fn a_step_that_fails_late_fails_its_requests_alone() {
    for fail_at in 0..6 {
        let mut parrot = Parrot::new(groups(false), LIMITS);
        parrot.fail_at = Some(fail_at);
        let (engine, _) = engine(parrot, fail_at as u64);
        let request = |first: u32| Request {
            max_tokens: Some(20),
            sampling: SamplingParams::greedy(),
            ..Request::new((first..first + 5).collect())
        };
        let last = engine.submit(request(1)).unwrap().last();
        assert!(matches!(last, Some(Event::Failed(Error::Model(_)))), "{last:?}");
        let ids: Vec<u32> = engine
            .submit(request(2))
            .unwrap()
            .filter_map(|event| match event {
                Event::Token { id, .. } => Some(id),
                Event::Finished { .. } => None,
                Event::Failed(error) => panic!("{error}"),
            })
            .collect();
        assert_eq!(ids, continuation(&[2, 3, 4, 5, 6], 20, usize::MAX));
    }
}

/// Sampled requests side by side: some whose likeliest tokens decide, some that need all logits.
fn sampled(random: &mut Random) -> Request {
    let n_prompt = 1 + random.below(20);
    let prompt = (0..n_prompt).map(|_| 1 + random.below(N_VOCAB - 1) as u32).collect();
    let mut sampling = SamplingParams { seed: random.below(1 << 20) as u64, ..SamplingParams::default() };
    let mut logprobs = None;
    match random.below(6) {
        0 => sampling.top_k = 0,
        1 => sampling.penalties = PenaltyParams { repeat: 1.3, last_n: 8, ..PenaltyParams::default() },
        2 => logprobs = Some(2),
        3 => sampling = SamplingParams::greedy(),
        _ => sampling.top_k = 1 + random.below(MAX_LIKELIEST),
    }
    let max_tokens = Some(1 + random.below(64 - n_prompt));
    Request { max_tokens, ignore_eos: true, sampling, logprobs, ..Request::new(prompt) }
}

#[test]
fn tokens_from_the_likeliest_are_those_from_all_logits() {
    let mut likeliest = 0;
    for seed in 0..30 {
        let random = &mut Random(seed);
        let requests: Vec<Request> = (0..12).map(|_| sampled(random)).collect();
        let (ahead, counts) = engine(Parrot::new(groups(false), LIMITS), seed);
        let parrot = Parrot::new(groups(false), LIMITS);
        let waited = Engine::start(Box::new(parrot), tokenizer(), EngineConfig::default());
        let [ahead, waited] = [ahead, waited].map(|engine| {
            let running: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
            let tokens = |generation: Generation| {
                let events = generation.map(|event| match event {
                    Event::Token { id, logprob, .. } => Some((id, logprob)),
                    Event::Finished { .. } => None,
                    Event::Failed(error) => panic!("{error}"),
                });
                events.collect::<Vec<_>>()
            };
            running.into_iter().map(tokens).collect::<Vec<_>>()
        });
        assert_eq!(ahead, waited, "seed {seed}");
        likeliest += counts.likeliest.load(Ordering::Relaxed);
    }
    assert!(likeliest > 1000, "{likeliest}: too tame");
}

/// A long prompt's pieces run in the steps of replies that the host samples, not in steps between them.
#[test]
fn sampled_replies_are_in_every_step_beside_a_prompt() {
    let group = CacheGroup { n_pages: 64, page_size: 4, window: None };
    let parrot = Parrot::new(vec![group], RunnerLimits { max_batch_tokens: 8, ..LIMITS });
    let (steps, gate) = (parrot.steps.clone(), parrot.gate.clone());
    let (engine, _) = engine(parrot, 1);
    let request = |prompt: Vec<u32>, n| Request {
        max_tokens: Some(n),
        ignore_eos: true,
        sampling: SamplingParams::default(),
        ..Request::new(prompt)
    };
    let held = gate.lock();
    let replies: Vec<_> = (1..=3).map(|id| engine.submit(request(vec![id], 12)).unwrap()).collect();
    let long = engine.submit(request(vec![9; 56], 1)).unwrap();
    drop(held);
    let n: Vec<usize> = replies.into_iter().chain([long]).map(Iterator::count).collect();
    assert_eq!(n, [13, 13, 13, 2]);
    // Five of its tokens beside three replies; the first steps may come before all requests.
    let steps = steps.load(Ordering::Relaxed);
    assert!((12..=14).contains(&steps), "{steps} steps");
}
