//! Each stage against its formula, written out slowly.

use super::adjust::Adjuster;
use super::candidates::Candidates;
use super::*;
use crate::constraint::TokenMask;

/// A number from `low` to `high`, different for each `(seed, i)`.
fn random(seed: u64, i: u64, low: f64, high: f64) -> f64 {
    low + uniform(seed, i) * (high - low)
}

/// Logits of a vocabulary of 1 to 300 tokens, some equal, some impossible.
fn random_logits(seed: u64) -> Vec<f32> {
    let n = random(seed, 0, 1.0, 300.0) as u64;
    let coarse = uniform(seed, 1) < 0.3;
    let logit = |i: u64| {
        let x = random(seed, 10 + i, -8.0, 8.0);
        match uniform(seed ^ 1, i) {
            u if u < 0.02 => f32::NAN,
            u if u < 0.04 => f32::NEG_INFINITY,
            _ if coarse => x.round() as f32,
            _ => x as f32,
        }
    };
    let mut logits: Vec<f32> = (0..n).map(logit).collect();
    logits[0] = 1.0;
    logits
}

/// Everything off, temperature 1.
fn off() -> SamplingParams {
    SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingParams::default() }
}

/// Ids and probabilities.
type Distribution = Vec<(u32, f64)>;

fn normalised(mut list: Distribution) -> Distribution {
    let sum: f64 = list.iter().map(|c| c.1).sum();
    list.iter_mut().for_each(|c| c.1 /= sum);
    list
}

/// The full softmax, likeliest first, lower ids first among equals.
fn softmax(logits: &[f32]) -> Distribution {
    let mut ids: Vec<u32> =
        (0..logits.len() as u32).filter(|&i| logits[i as usize] > f32::NEG_INFINITY).collect();
    ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    normalised(ids.into_iter().map(|i| (i, f64::from(logits[i as usize]).exp())).collect())
}

/// The shortest front of `list` that reaches `mass`.
fn front(list: &Distribution, mass: f32) -> Distribution {
    let enough = |n: &usize| list[..*n].iter().map(|c| c.1).sum::<f64>() >= f64::from(mass);
    let n = (1..=list.len()).find(enough).unwrap_or(list.len());
    normalised(list[..n].to_vec())
}

/// Compares as sets; a probability may be off by rounding.
fn assert_same(candidates: &Candidates, expected: &Distribution, what: &str) {
    let mut got: Distribution = candidates.as_slice().iter().map(|c| (c.id, c.p)).collect();
    let mut expected = expected.clone();
    got.sort_by_key(|c| c.0);
    expected.sort_by_key(|c| c.0);
    let ids = |list: &Distribution| list.iter().map(|c| c.0).collect::<Vec<_>>();
    assert_eq!(ids(&got), ids(&expected), "{what}");
    assert!(got.iter().zip(&expected).all(|(a, b)| (a.1 - b.1).abs() < 1e-9), "{what}: {got:?} {expected:?}");
}

fn started(logits: &[f32], k: usize) -> Candidates {
    let mut candidates = Candidates::default();
    assert!(candidates.collect(logits, k));
    candidates.softmax(1.0);
    candidates
}

#[test]
fn cuts_equal_their_formulas() {
    for seed in 0..400 {
        let logits = random_logits(seed);
        let full = softmax(&logits);
        let p = random(seed, 2, 0.0, 1.0) as f32;
        let what = format!("seed {seed}, p {p}");

        let k = random(seed, 3, 1.0, 320.0) as usize;
        assert_same(&started(&logits, k), &normalised(full[..k.min(full.len())].to_vec()), &what);

        let mut candidates = started(&logits, 0);
        assert_same(&candidates, &full, &what);
        candidates.keep_top_p(p);
        assert_same(&candidates, &front(&full, p), &what);

        let mut candidates = started(&logits, 0);
        candidates.keep_min_p(p);
        let likely = |c: &&(u32, f64)| c.1 >= full[0].1 * f64::from(p);
        assert_same(&candidates, &normalised(full.iter().filter(likely).copied().collect()), &what);

        let mut candidates = started(&logits, 0);
        candidates.keep_unsurprising(f64::from(p) * 10.0);
        let plain = |c: &&(u32, f64)| c.0 == full[0].0 || -c.1.log2() <= f64::from(p) * 10.0;
        assert_same(&candidates, &normalised(full.iter().filter(plain).copied().collect()), &what);

        let threshold = p / 10.0;
        let mut candidates = started(&logits, 0);
        candidates.exclude_top_choices(threshold);
        let top = full.iter().filter(|c| c.1 >= f64::from(threshold)).count();
        assert_same(&candidates, &normalised(full[top.saturating_sub(1)..].to_vec()), &what);
    }
}

#[test]
fn typical_keeps_those_nearest_to_the_entropy() {
    for seed in 0..400 {
        let logits = random_logits(seed);
        let p = random(seed, 2, 0.0, 0.999) as f32;
        let full = softmax(&logits);
        let entropy: f64 = full.iter().map(|c| -c.1 * c.1.ln()).sum();
        let mut candidates = started(&logits, 0);
        candidates.keep_typical(p);
        // Which of two equally typical tokens stays is up to rounding: compare what is kept by its worth.
        let away = |p: f64| (-p.ln() - entropy).abs();
        let mut by_distance = full.clone();
        by_distance.sort_by(|a, b| away(a.1).total_cmp(&away(b.1)));
        let expected = front(&by_distance, p);
        let of = |id: u32| away(full.iter().find(|c| c.0 == id).expect("a candidate").1);
        let mut got: Vec<f64> = candidates.as_slice().iter().map(|c| of(c.id)).collect();
        let mut want: Vec<f64> = expected.iter().map(|c| of(c.0)).collect();
        got.sort_by(f64::total_cmp);
        want.sort_by(f64::total_cmp);
        assert!(got.len().abs_diff(want.len()) <= 1, "seed {seed}");
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-9), "seed {seed}");
    }
}

#[test]
fn cuts_keep_what_the_papers_say() {
    fn kept<T>(change: impl Fn(&mut Candidates) -> T) -> Vec<u32> {
        // Probabilities 0.64, 0.24, 0.09, 0.03; their entropy is 0.95 nats.
        let mut candidates = started(&[4.0, 3.0, 2.0, 1.0], 0);
        change(&mut candidates);
        let mut ids: Vec<u32> = candidates.as_slice().iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }
    assert_eq!(kept(|c| c.keep_top_p(0.7)), [0, 1]);
    assert_eq!(kept(|c| c.keep_top_p(0.0)), [0]);
    assert_eq!(kept(|c| c.keep_min_p(0.1)), [0, 1, 2]);
    assert_eq!(kept(|c| c.keep_min_p(1.0)), [0]);
    // Surprises are 0.44, 1.44, 2.44, 3.44 nats: the second is nearest, then the first.
    assert_eq!(kept(|c| c.keep_typical(0.2)), [1]);
    assert_eq!(kept(|c| c.keep_typical(0.5)), [0, 1]);
    assert_eq!(kept(|c| c.exclude_top_choices(0.05)), [2, 3]);
    assert_eq!(kept(|c| c.exclude_top_choices(0.3)), [0, 1, 2, 3]);
    assert_eq!(kept(|c| c.exclude_top_choices(0.9)), [0, 1, 2, 3]);
    // Surprises in bits: 0.63, 2.08, 3.52, 4.96.
    assert_eq!(kept(|c| c.keep_unsurprising(3.0)), [0, 1]);
    assert_eq!(kept(|c| c.keep_unsurprising(-5.0)), [0]);
}

fn choose(sampler: &mut Sampler, logits: &[f32], params: &SamplingParams, history: &[u32]) -> Option<u32> {
    choose_at(sampler, logits, params, history, None, 0)
}

fn choose_at(
    sampler: &mut Sampler,
    logits: &[f32],
    params: &SamplingParams,
    history: &[u32],
    mask: Option<&TokenMask>,
    position: u64,
) -> Option<u32> {
    let input = SampleInput { logits, params, history, position, mask, logprobs: None };
    sampler.choose(&input, &mut SamplerState::default()).map(|s| s.id)
}

/// Shares of each token in `n` draws must be near `expected`.
fn assert_draws(logits: &[f32], params: &SamplingParams, expected: &Distribution) {
    let n = 40_000;
    let mut sampler = Sampler::new();
    let mut counts = vec![0u32; logits.len()];
    for position in 0..n {
        let id = choose_at(&mut sampler, logits, params, &[], None, position).expect("a token");
        counts[id as usize] += 1;
    }
    for (id, &count) in counts.iter().enumerate() {
        let p = expected.iter().find(|c| c.0 == id as u32).map_or(0.0, |c| c.1);
        let sigma = (p * (1.0 - p) / n as f64).sqrt();
        // Five standard deviations of a binomial share.
        assert!((f64::from(count) / n as f64 - p).abs() <= 5.0 * sigma, "{params:?}: {counts:?}");
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.0, 1.0, 2.0, f32::NAN, f32::NEG_INFINITY, 0.5];
    let full = softmax(&logits);
    assert_draws(&logits, &off(), &full);
    assert_draws(&logits, &SamplingParams { top_k: 2, ..off() }, &normalised(full[..2].to_vec()));
    let hot = SamplingParams { temperature: 3.0, ..off() };
    assert_draws(&logits, &hot, &softmax(&logits.map(|x| x / 3.0)));
    // In a third of the draws, all but the last of those above 0.1 are left out.
    let xtc = XtcParams { probability: 1.0 / 3.0, threshold: 0.1 };
    let n_top = full.iter().filter(|c| c.1 >= f64::from(0.1f32)).count();
    let cut = normalised(full[n_top - 1..].to_vec());
    let mixed = |c: &(u32, f64)| {
        let alone = cut.iter().find(|other| other.0 == c.0).map_or(0.0, |other| other.1);
        (c.0, c.1 * 2.0 / 3.0 + alone / 3.0)
    };
    assert_draws(&logits, &SamplingParams { xtc, ..off() }, &full.iter().map(mixed).collect());
}

#[test]
fn mirostat_keeps_the_surprise_near_its_aim() {
    let logits: Vec<f32> = (0..1000).map(|i| -1.5 * (1.0 + i as f32).ln()).collect();
    let full = softmax(&logits);
    for tau in [2.0, 3.0, 4.0] {
        let params = SamplingParams { mirostat: Some(MirostatParams { tau, eta: 0.1 }), ..off() };
        let (mut sampler, mut state) = (Sampler::new(), SamplerState::default());
        let n = 20_000;
        let mut total = 0.0;
        for position in 0..n {
            let input = SampleInput {
                logits: &logits,
                params: &params,
                history: &[],
                position,
                mask: None,
                logprobs: None,
            };
            let id = sampler.choose(&input, &mut state).expect("a token").id;
            total -= full[id as usize].1.log2();
        }
        assert!((total / n as f64 - f64::from(tau)).abs() < 0.05, "{tau}: {}", total / n as f64);
    }
}

#[test]
fn greedy_takes_the_first_of_equals() {
    let mut sampler = Sampler::new();
    let greedy = SamplingParams::greedy();
    assert_eq!(choose(&mut sampler, &[1.0, 3.0, 3.0], &greedy, &[]), Some(1));
    assert_eq!(choose(&mut sampler, &[f32::NAN, -3.0], &greedy, &[]), Some(1));
    assert_eq!(choose(&mut sampler, &[0.0, f32::INFINITY], &greedy, &[]), Some(1));
}

#[test]
fn nothing_is_chosen_where_nothing_can_be() {
    let mut sampler = Sampler::new();
    let mirostat = SamplingParams { mirostat: Some(MirostatParams::default()), ..off() };
    for params in [off(), SamplingParams::greedy(), SamplingParams::default(), mirostat] {
        for logits in [&[][..], &[f32::NAN, f32::NAN], &[f32::NEG_INFINITY; 3]] {
            assert_eq!(choose(&mut sampler, logits, &params, &[]), None);
        }
        let mask = TokenMask::from_ids(&[], 3);
        assert_eq!(choose_at(&mut sampler, &[1.0; 3], &params, &[], Some(&mask), 0), None);
        let banned =
            SamplingParams { logit_bias: vec![(0, -100.0), (1, f32::NEG_INFINITY)], ..params.clone() };
        assert_eq!(choose(&mut sampler, &[1.0; 2], &banned, &[]), None);
        assert_eq!(choose(&mut sampler, &[1.0; 3], &banned, &[]), Some(2));
    }
}

#[test]
fn extremes_are_drawn_from() {
    let mut sampler = Sampler::new();
    let infinite = [0.0, f32::INFINITY, f32::INFINITY];
    let wild = SamplingParams {
        top_p: 0.5,
        typical_p: 0.5,
        min_p: 0.5,
        xtc: XtcParams { probability: 1.0, threshold: 0.0 },
        ..off()
    };
    let cold = SamplingParams { temperature: f32::MIN_POSITIVE, ..off() };
    for params in [off(), wild, cold, SamplingParams { top_k: 99, ..off() }] {
        for position in 0..50 {
            let id = choose_at(&mut sampler, &infinite, &params, &[], None, position);
            assert!(matches!(id, Some(1 | 2)), "{params:?}");
            let id = choose_at(&mut sampler, &[f32::MAX, f32::MIN], &params, &[], None, position);
            assert!(matches!(id, Some(0 | 1)), "{params:?}");
        }
    }
}

#[test]
fn a_mask_leaves_only_what_it_allows() {
    let mut sampler = Sampler::new();
    for seed in 0..200 {
        let logits = random_logits(seed);
        let allowed: Vec<u32> =
            (0..logits.len() as u32).filter(|&i| uniform(seed, u64::from(i)) < 0.1).collect();
        let mask = TokenMask::from_ids(&allowed, logits.len());
        let possible: Vec<u32> =
            allowed.into_iter().filter(|&i| logits[i as usize] > f32::NEG_INFINITY).collect();
        for params in [off(), SamplingParams::greedy(), SamplingParams::default()] {
            let id = choose_at(&mut sampler, &logits, &params, &[1, 2, 3], Some(&mask), seed);
            assert_eq!(id.is_none(), possible.is_empty());
            assert!(id.is_none_or(|id| possible.contains(&id)));
        }
    }
}

#[test]
fn bias_and_penalties_change_what_they_should() {
    let mut sampler = Sampler::new();
    let with = |penalties| SamplingParams { penalties, ..SamplingParams::greedy() };
    let none = PenaltyParams::default();
    let logits = [2.0, 1.9];
    let mut greedy =
        |params: SamplingParams, history: &[u32]| choose(&mut sampler, &logits, &params, history);
    assert_eq!(greedy(with(none), &[0]), Some(0));
    assert_eq!(greedy(with(PenaltyParams { repeat: 1.2, ..none }), &[0]), Some(1));
    assert_eq!(greedy(with(PenaltyParams { presence: 0.2, ..none }), &[0]), Some(1));
    let frequency = with(PenaltyParams { frequency: 0.06, ..none });
    assert_eq!(greedy(frequency.clone(), &[0]), Some(0));
    assert_eq!(greedy(frequency, &[0, 0]), Some(1));
    let short = with(PenaltyParams { repeat: 1.2, last_n: 1, ..none });
    assert_eq!(greedy(short, &[0, 5]), Some(0));
    let biased = SamplingParams { logit_bias: vec![(1, 0.2), (99, 50.0)], ..SamplingParams::greedy() };
    assert_eq!(greedy(biased, &[]), Some(1));
}

/// DRY as its author states it: for each earlier end of the same tokens.
fn slow_dry(dry: &DryParams, history: &[u32], logits: &mut [f32]) {
    let window = &history[history.len().saturating_sub(dry.last_n)..];
    let mut longest = vec![0usize; logits.len()];
    for next in 1..window.len() {
        let matched = (0..next)
            .take_while(|&k| window[next - 1 - k] == window[window.len() - 1 - k])
            .take_while(|&k| !dry.breakers.contains(&window[next - 1 - k]))
            .count();
        let token = window[next] as usize;
        if !dry.breakers.contains(&window[next]) {
            longest[token] = longest[token].max(matched);
        }
    }
    for (logit, &n) in logits.iter_mut().zip(&longest) {
        if n >= dry.allowed_length {
            *logit -= dry.multiplier * dry.base.powi((n - dry.allowed_length) as i32);
        }
    }
}

#[test]
fn dry_equals_its_formula() {
    let mut adjuster = Adjuster::default();
    for seed in 0..500 {
        let kinds = random(seed, 0, 2.0, 6.0) as usize;
        let n = random(seed, 1, 0.0, 40.0) as u64;
        let history: Vec<u32> = (0..n).map(|i| (uniform(seed, 20 + i) * kinds as f64) as u32).collect();
        let dry = DryParams {
            multiplier: 0.8,
            base: 1.3,
            allowed_length: random(seed, 2, 1.0, 4.0) as usize,
            last_n: random(seed, 3, 1.0, 60.0) as usize,
            breakers: if uniform(seed, 4) < 0.5 { vec![0] } else { vec![] },
        };
        let logits: Vec<f32> = (0..kinds as u64).map(|i| uniform(seed, 100 + i) as f32).collect();
        let mut expected = logits.clone();
        slow_dry(&dry, &history, &mut expected);
        let params = SamplingParams { dry, ..SamplingParams::greedy() };
        let input = SampleInput {
            logits: &logits,
            params: &params,
            history: &history,
            position: 0,
            mask: None,
            logprobs: None,
        };
        let got = adjuster.apply(&input);
        let near = got.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0));
        assert!(near, "seed {seed}: {history:?} {params:?} {got:?} {expected:?}");
    }
}

#[test]
fn a_long_repetition_is_banned_rather_than_not_a_number() {
    let dry = DryParams { multiplier: 1.0, base: 100.0, ..Default::default() };
    let params = SamplingParams { dry, ..SamplingParams::greedy() };
    let got = choose(&mut Sampler::new(), &[9.0, 0.0], &params, &[0; 2000]);
    assert_eq!(got, Some(1));
}

#[test]
fn the_same_request_draws_the_same_whatever_else_the_sampler_did() {
    let params = SamplingParams {
        penalties: PenaltyParams { repeat: 1.1, ..Default::default() },
        dry: DryParams { multiplier: 0.8, ..Default::default() },
        xtc: XtcParams { probability: 0.5, threshold: 0.1 },
        typical_p: 0.9,
        ..SamplingParams::default()
    };
    let mut used = Sampler::new();
    for seed in 0..100 {
        let logits = random_logits(seed);
        let history = [1, 2, 3, 1, 2];
        let alone = choose_at(&mut Sampler::new(), &logits, &params, &history, None, seed);
        assert_eq!(choose_at(&mut used, &logits, &params, &history, None, seed), alone);
    }
}

#[test]
fn logprobs_are_those_of_the_raw_logits() {
    let logits = [0.0, 1.0, 2.0];
    let params = SamplingParams { logit_bias: vec![(2, -100.0)], ..SamplingParams::greedy() };
    let input = SampleInput {
        logits: &logits,
        params: &params,
        history: &[],
        position: 0,
        mask: None,
        logprobs: Some(2),
    };
    let sampled = Sampler::new().choose(&input, &mut SamplerState::default()).expect("a token");
    let full = softmax(&logits);
    let logprob = sampled.logprob.expect("asked for");
    assert_eq!(sampled.id, 1);
    assert!((f64::from(logprob.logprob) - full[1].1.ln()).abs() < 1e-6);
    assert_eq!(logprob.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn top_k_of_a_large_vocabulary_equals_the_sorted_one() {
    for (k, coarse) in [(1, false), (40, true), (300, false), (5000, true)] {
        let logits: Vec<f32> = (0..20_000)
            .map(|i| random(7, i, -8.0, 8.0) as f32)
            .map(|x| if coarse { x.round() } else { x })
            .collect();
        let full = softmax(&logits);
        let candidates = started(&logits, k);
        let got: Vec<u32> = candidates.as_slice().iter().map(|c| c.id).collect();
        assert_eq!(got, full[..k].iter().map(|c| c.0).collect::<Vec<_>>());
    }
}
