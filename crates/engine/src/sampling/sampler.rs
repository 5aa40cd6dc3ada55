//! The stages from logits to one token.

use super::adjust::{self, Adjuster};
use super::candidates::Candidates;
use super::logprobs::{TokenLogprob, logprob_of};
use super::rng::{Stage, uniform_of};
use super::{MirostatParams, SamplingParams, uniform};
use crate::constraint::TokenMask;

/// What the next token of a sequence depends on.
#[derive(Debug, Clone, Copy)]
pub struct SampleInput<'a> {
    /// The model's, `[n_vocab]`.
    pub logits: &'a [f32],
    /// How to choose.
    pub params: &'a SamplingParams,
    /// Prompt and generated tokens.
    pub history: &'a [u32],
    /// Place of the next token in the sequence: with the seed, it fixes the random numbers.
    pub position: u64,
    /// Tokens that a constraint allows.
    pub mask: Option<&'a TokenMask>,
    /// Asks for the log-probability of the token and of so many of the likeliest.
    pub logprobs: Option<usize>,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub id: u32,
    /// Its log-probability, if that was asked for: of the model's logits, before any stage.
    pub logprob: Option<TokenLogprob>,
}

/// What a sequence carries from token to token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplerState {
    /// Mirostat's cut, in bits.
    mu: Option<f64>,
}

/// Chooses tokens; its buffers are reused, so that steady state allocates nothing.
#[derive(Debug, Default)]
pub struct Sampler {
    adjuster: Adjuster,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The token that [`choose`](Self::choose) gives, from the likeliest ones with their logits: as
    /// many as [`SamplingParams::n_deciding`] says. Nothing is masked.
    pub fn choose_from(
        &mut self,
        likeliest: &[(u32, f32)],
        (params, position): (&SamplingParams, u64),
        history: &[u32],
        state: &mut SamplerState,
    ) -> Option<u32> {
        let tokens = adjust::penalised(likeliest, &params.penalties, history);
        let is_greedy = params.temperature == 0.0;
        if !self.candidates.take(tokens, if is_greedy { 1 } else { params.top_k }) {
            return None;
        }
        Some(match is_greedy {
            true => self.candidates.likeliest(),
            false => draw(&mut self.candidates, params, position, state),
        })
    }

    /// The next token; `None` when none can follow, because all are banned or
    /// no logit is a number above negative infinity.
    pub fn choose(&mut self, input: &SampleInput<'_>, state: &mut SamplerState) -> Option<Sampled> {
        let logits = match adjust::is_off(input.params, input.mask) {
            true => input.logits,
            false => self.adjuster.apply(input),
        };
        let id = match input.params.temperature == 0.0 {
            true => argmax(logits),
            false => {
                let params = input.params;
                let k = if params.mirostat.is_some() { 0 } else { params.top_k };
                let is_there = self.candidates.collect(logits, k);
                is_there.then(|| draw(&mut self.candidates, params, input.position, state))
            }
        }?;
        let logprob = input.logprobs.map(|k| logprob_of(input.logits, id, k));
        Some(Sampled { id, logprob })
    }
}

/// A token of those that were collected.
fn draw(
    candidates: &mut Candidates,
    params: &SamplingParams,
    position: u64,
    state: &mut SamplerState,
) -> u32 {
    if let Some(draw) = params.drawing(position) {
        return candidates.draw_by(&draw);
    }
    let u = uniform(params.seed, position);
    if let Some(mirostat) = &params.mirostat {
        candidates.softmax(params.temperature);
        return draw_mirostat(candidates, mirostat, u, state);
    }
    candidates.softmax(1.0);
    candidates.keep_typical(params.typical_p);
    candidates.keep_top_p(params.top_p);
    candidates.keep_min_p(params.min_p);
    if uniform_of(params.seed, position, Stage::Xtc) < f64::from(params.xtc.probability) {
        candidates.exclude_top_choices(params.xtc.threshold);
    }
    candidates.softmax(params.temperature);
    candidates.draw(u).id
}

fn draw_mirostat(
    candidates: &mut Candidates,
    mirostat: &MirostatParams,
    u: f64,
    state: &mut SamplerState,
) -> u32 {
    let tau = f64::from(mirostat.tau);
    let mu = state.mu.get_or_insert(2.0 * tau);
    let mass = candidates.keep_unsurprising(*mu);
    let drawn = candidates.draw(u);
    // Surprise as it was before the cut.
    let surprise = -(drawn.p * mass).log2();
    *mu -= f64::from(mirostat.eta) * (surprise - tau);
    drawn.id
}

/// The lowest index of the largest number; NaN and negative infinity never win.
fn argmax(logits: &[f32]) -> Option<u32> {
    // Lanes side by side, which the compiler turns into vectors; a comparison with NaN is false.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &x)| *lane = larger(*lane, x));
    }
    let best = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |best, &x| larger(best, x));
    let is_there = best > f32::NEG_INFINITY;
    let place = logits.iter().position(|&x| x == best).filter(|_| is_there)?;
    u32::try_from(place).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_is_the_first_of_the_largest() {
        const NONE: f32 = f32::NEG_INFINITY;
        for n in [0, 1, 15, 16, 17, 100] {
            assert_eq!(argmax(&vec![NONE; n]), None);
            assert_eq!(argmax(&vec![f32::NAN; n]), None);
            for place in 0..n {
                let mut logits = vec![f32::NAN; n];
                logits[place..].fill(-3.0);
                assert_eq!(argmax(&logits), Some(place as u32));
                logits[place] = NONE;
                assert_eq!(argmax(&logits), (place + 1 < n).then_some(place as u32 + 1));
                logits[n - 1] = f32::INFINITY;
                assert_eq!(argmax(&logits), Some(n as u32 - 1));
            }
        }
    }
}
