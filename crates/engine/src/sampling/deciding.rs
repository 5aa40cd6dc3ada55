//! Tests that the tokens that decide are enough: chosen from them is what is chosen from all.

use super::*;

fn random(seed: u64, i: u64, low: f64, high: f64) -> f64 {
    low + uniform(seed, i) * (high - low)
}

/// Logits of 1 to 400 tokens, now and then of many more: often equal, zeros of both signs, infinities, NaN.
fn logits(seed: u64) -> Vec<f32> {
    let n = random(seed, 0, 1.0, if seed.is_multiple_of(32) { 6000.0 } else { 400.0 }) as u64;
    let step = [0.0, 0.25, 2.0][random(seed, 1, 0.0, 3.0) as usize];
    let logit = |i: u64| match uniform(seed ^ 1, i) {
        u if u < 0.02 => f32::NAN,
        u if u < 0.04 => f32::NEG_INFINITY,
        u if u < 0.045 => f32::INFINITY,
        u if u < 0.1 => -0.0,
        u if u < 0.15 => 0.0,
        _ if step == 0.0 => random(seed, 10 + i, -8.0, 8.0) as f32,
        _ => ((random(seed, 10 + i, -8.0, 8.0) / step).round() * step) as f32,
    };
    (0..n).map(logit).collect()
}

/// Parameters that some of the likeliest tokens decide by.
fn params(seed: u64) -> SamplingParams {
    let often = |i: u64, p: f64| uniform(seed ^ 2, i) < p;
    let from = |i: u64, low: f64, high: f64| random(seed ^ 3, i, low, high) as f32;
    let mut params = SamplingParams { seed, top_k: from(0, 1.0, 60.0) as usize, ..Default::default() };
    params.temperature = if often(0, 0.2) { 0.0 } else { from(1, 0.1, 3.0) };
    params.top_p = from(2, 0.0, 1.0);
    params.min_p = if often(1, 0.5) { 0.0 } else { from(3, 0.0, 0.3) };
    params.typical_p = if often(2, 0.7) { 1.0 } else { from(4, 0.0, 1.0) };
    if often(3, 0.3) {
        params.xtc = XtcParams { probability: 0.5, threshold: from(5, 0.0, 0.3) };
    }
    if often(4, 0.7) {
        let last_n = from(6, 0.0, 80.0) as usize;
        let [presence, frequency] = [7, 8].map(|i| if often(i, 0.5) { 0.0 } else { from(i, 0.0, 2.0) });
        params.penalties = PenaltyParams { repeat: from(9, 1.0, 2.0), presence, frequency, last_n };
    }
    params
}

/// The likeliest, by the slow obvious way.
fn likeliest(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut tokens: Vec<(u32, f32)> =
        (0..).zip(logits.iter().copied()).filter(|t| t.1 > f32::NEG_INFINITY).collect();
    tokens.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("no NaN is left"));
    tokens.truncate(n);
    // What a device leaves where there are no more.
    tokens.resize(n, (u32::MAX, f32::NEG_INFINITY));
    tokens
}

#[test]
fn a_token_from_those_that_decide_is_that_from_all() {
    let (mut sampler, mut differs) = (Sampler::new(), 0);
    for seed in 0..20_000 {
        let (logits, params) = (logits(seed), params(seed));
        let n_history = random(seed, 2, 0.0, 90.0) as u64;
        let kinds = logits.len().min(60) as f64;
        let mut history: Vec<u32> = likeliest(&logits, 30).iter().map(|t| t.0).collect();
        history.extend((0..n_history).map(|i| random(seed ^ 4, i, 0.0, kinds) as u32));
        history.retain(|&id| id != u32::MAX);
        let input = SampleInput {
            logits: &logits,
            params: &params,
            history: &history,
            position: seed,
            mask: None,
            logprobs: None,
        };
        let expected = sampler.choose(&input, &mut SamplerState::default()).map(|s| s.id);
        let n = params.n_deciding(history.len()).expect("some decide");
        let mut choose = |n| {
            let state = &mut SamplerState::default();
            sampler.choose_from(&likeliest(&logits, n), (&params, seed), &history, state)
        };
        assert_eq!(choose(n), expected, "seed {seed}: {params:?}");
        differs += usize::from(choose(n / 2) != expected);
    }
    assert!(differs > 300, "fewer than decide were enough but {differs} times: too tame");
}

#[test]
fn all_decide_where_a_low_one_may_rise_or_nothing_is_cut() {
    let base = SamplingParams::default();
    let with = |penalties| SamplingParams { penalties, ..base.clone() };
    let none = PenaltyParams::default();
    let cases = [
        (base.clone(), Some(40)),
        (SamplingParams::greedy(), Some(1)),
        (SamplingParams { top_k: 0, ..base.clone() }, None),
        (SamplingParams { top_k: 0, ..SamplingParams::greedy() }, Some(1)),
        (SamplingParams { logit_bias: vec![(1, 1.0)], ..base.clone() }, None),
        (SamplingParams { mirostat: Some(MirostatParams::default()), ..base.clone() }, None),
        (SamplingParams { dry: DryParams { multiplier: 0.8, ..DryParams::default() }, ..base.clone() }, None),
        (with(PenaltyParams { repeat: 1.1, ..none }), Some(50)),
        (with(PenaltyParams { repeat: 1.1, last_n: 3, ..none }), Some(43)),
        (with(PenaltyParams { repeat: 0.9, ..none }), None),
        (with(PenaltyParams { presence: -0.1, ..none }), None),
        (with(PenaltyParams { frequency: -0.1, ..none }), None),
        (
            SamplingParams { top_k: usize::MAX, ..with(PenaltyParams { repeat: 1.1, ..none }) },
            Some(usize::MAX),
        ),
    ];
    for (params, expected) in cases {
        assert_eq!(params.n_deciding(10), expected, "{params:?}");
    }
}
