//! Sampling parameters, checked once.

use std::ops::RangeInclusive;

use model::{Draw, MAX_LIKELIEST};

use super::uniform;
use crate::{Error, Result};

/// Penalties on tokens that already stand in the recent context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PenaltyParams {
    /// Divides positive logits and multiplies negative ones (Keskar et al. 2019); 1 is off. `> 0`
    pub repeat: f32,
    /// Subtracted once from every token seen; 0 is off. `-2..=2`
    pub presence: f32,
    /// Subtracted once for each time a token was seen; 0 is off. `-2..=2`
    pub frequency: f32,
    /// How many of the last tokens count, prompt included.
    pub last_n: usize,
}

impl Default for PenaltyParams {
    fn default() -> Self {
        Self { repeat: 1.0, presence: 0.0, frequency: 0.0, last_n: 64 }
    }
}

impl PenaltyParams {
    /// A logit of a token that stands `count` times in the context.
    pub(super) fn apply(&self, logit: f32, count: u32) -> f32 {
        let repeated = if logit > 0.0 { logit / self.repeat } else { logit * self.repeat };
        repeated - (self.presence + self.frequency * count as f32)
    }

    /// Whether no penalty can make a logit larger.
    fn only_lower(&self) -> bool {
        self.repeat >= 1.0 && self.presence >= 0.0 && self.frequency >= 0.0
    }

    /// Whether every penalty is off.
    pub fn is_off(&self) -> bool {
        self.repeat == 1.0 && self.presence == 0.0 && self.frequency == 0.0
    }
}

/// "Don't repeat yourself" (p-e-w, text-generation-webui #5677, 2024): a token
/// that would lengthen a repetition of `n` tokens to `n + 1` loses
/// `multiplier * base^(n - allowed_length)` if `n >= allowed_length`.
#[derive(Debug, Clone, PartialEq)]
pub struct DryParams {
    /// Strength; 0 is off. `0..=100`
    pub multiplier: f32,
    /// Growth with each repeated token. `1..=100`
    pub base: f32,
    /// Repetitions shorter than this cost nothing. At least 1.
    pub allowed_length: usize,
    /// How many of the last tokens are searched, prompt included; `usize::MAX` is all.
    pub last_n: usize,
    /// Tokens that no repetition reaches across, see [`breaker_ids`](super::breaker_ids).
    pub breakers: Vec<u32>,
}

impl Default for DryParams {
    fn default() -> Self {
        Self { multiplier: 0.0, base: 1.75, allowed_length: 2, last_n: usize::MAX, breakers: Vec::new() }
    }
}

/// "Exclude top choices" (p-e-w, text-generation-webui #6335, 2024): with
/// `probability`, all tokens at least `threshold` likely are left out, but the least likely of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct XtcParams {
    /// How often it happens; 0 is off. `0..=1`
    pub probability: f32,
    /// From which probability a token is a top choice; nothing happens above 0.5. `0..=1`
    pub threshold: f32,
}

impl Default for XtcParams {
    fn default() -> Self {
        Self { probability: 0.0, threshold: 0.1 }
    }
}

/// Mirostat 2 (Basu et al. 2021): a cut that follows the text, so that its
/// surprise stays near `tau`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MirostatParams {
    /// Surprise aimed at, in bits a token. `0..=100`
    pub tau: f32,
    /// How fast the cut follows. `0..=1`
    pub eta: f32,
}

impl Default for MirostatParams {
    fn default() -> Self {
        Self { tau: 5.0, eta: 0.1 }
    }
}

/// How the next token is chosen. The stages run in this order: constraint's
/// mask, logit bias, penalties, DRY; at temperature 0 the likeliest token is
/// then taken. Otherwise follow top-k, typical-p, top-p, min-p, XTC,
/// temperature, draw; or, with mirostat, temperature, its own cut, draw.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token. `0..=100`
    pub temperature: f32,
    /// Keeps the `k` most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens whose probabilities reach `p` (Holtzman et al. 2020); 1 keeps all. `0..=1`
    pub top_p: f32,
    /// Keeps tokens at least `p` times as likely as the likeliest (Nguyen et al. 2024); 0 keeps all. `0..=1`
    pub min_p: f32,
    /// Keeps the fewest tokens that reach `p` together, those first whose surprise is nearest
    /// to the expected one (Meister et al. 2022); 1 keeps all. `0..=1`
    pub typical_p: f32,
    /// Penalties on repetition.
    pub penalties: PenaltyParams,
    /// Penalty on long repetitions.
    pub dry: DryParams,
    /// Leaves out the likeliest tokens now and then.
    pub xtc: XtcParams,
    /// Replaces the cuts (top-k to XTC).
    pub mirostat: Option<MirostatParams>,
    /// Added to the logits of tokens; -100 or less bans one. At most 100
    pub logit_bias: Vec<(u32, f32)>,
    /// Same seed, same request, same text.
    pub seed: u64,
}

impl Default for SamplingParams {
    /// What people know from llama.cpp, with a fixed seed.
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            penalties: PenaltyParams::default(),
            dry: DryParams::default(),
            xtc: XtcParams::default(),
            mirostat: None,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// How many of the likeliest tokens decide what follows `n_history` others; `None` if all
    /// may. Those that are kept, and as many more as penalties may push out of their places.
    pub fn n_deciding(&self, n_history: usize) -> Option<usize> {
        let kept = match (self.temperature == 0.0, &self.mirostat) {
            (true, _) => 1,
            (false, None) => self.top_k,
            (false, Some(_)) => 0,
        };
        let lowered = match self.penalties.is_off() {
            true => 0,
            false => self.penalties.last_n.min(n_history),
        };
        let is_enough = kept > 0
            && self.logit_bias.is_empty()
            && self.dry.multiplier == 0.0
            && (lowered == 0 || self.penalties.only_lower());
        is_enough.then(|| kept.saturating_add(lowered))
    }

    /// How the token at `position` is drawn from the likeliest ones, which penalties have changed
    /// already; `None` where there may be too many of them or other cuts are made.
    pub fn drawing(&self, position: u64) -> Option<Draw> {
        let has_room = (1..=MAX_LIKELIEST).contains(&self.top_k) && self.temperature > 0.0;
        let is_plain = self.typical_p >= 1.0 && self.xtc.probability == 0.0 && self.mirostat.is_none();
        let uniform = || uniform(self.seed, position);
        let draw = || Draw::new(self.top_k as u32, self.temperature, self.top_p, self.min_p, uniform());
        (has_room && is_plain).then(draw)
    }

    /// Refuses values outside their ranges, NaN and infinity included.
    ///
    /// # Errors
    /// [`Error::Parameter`] naming the first one that is wrong.
    pub fn check(&self) -> Result<()> {
        let Self { penalties: p, dry, xtc, .. } = self;
        in_range("temperature", self.temperature, 0.0..=100.0, "from 0 to 100")?;
        in_range("top_p", self.top_p, 0.0..=1.0, "from 0 to 1")?;
        in_range("min_p", self.min_p, 0.0..=1.0, "from 0 to 1")?;
        in_range("typical_p", self.typical_p, 0.0..=1.0, "from 0 to 1")?;
        in_range("repeat_penalty", p.repeat, f32::MIN_POSITIVE..=100.0, "above 0 and at most 100")?;
        in_range("presence_penalty", p.presence, -2.0..=2.0, "from -2 to 2")?;
        in_range("frequency_penalty", p.frequency, -2.0..=2.0, "from -2 to 2")?;
        in_range("dry_multiplier", dry.multiplier, 0.0..=100.0, "from 0 to 100")?;
        in_range("dry_base", dry.base, 1.0..=100.0, "from 1 to 100")?;
        if dry.allowed_length == 0 {
            return Err(Error::Parameter {
                name: "dry_allowed_length",
                value: "0".into(),
                range: "at least 1",
            });
        }
        in_range("xtc_probability", xtc.probability, 0.0..=1.0, "from 0 to 1")?;
        in_range("xtc_threshold", xtc.threshold, 0.0..=1.0, "from 0 to 1")?;
        if let Some(mirostat) = &self.mirostat {
            in_range("mirostat_tau", mirostat.tau, 0.0..=100.0, "from 0 to 100")?;
            in_range("mirostat_eta", mirostat.eta, 0.0..=1.0, "from 0 to 1")?;
        }
        self.logit_bias
            .iter()
            .try_for_each(|&(_, bias)| in_range("logit_bias", bias, f32::NEG_INFINITY..=100.0, "at most 100"))
    }

    /// Refuses token ids that a model with `n_vocab` tokens does not have.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] with the first one.
    pub fn check_ids(&self, n_vocab: usize) -> Result<()> {
        let mut ids = self.logit_bias.iter().map(|&(id, _)| id).chain(self.dry.breakers.iter().copied());
        match ids.find(|&id| id as usize >= n_vocab) {
            Some(id) => Err(Error::UnknownToken { id, n_vocab }),
            None => Ok(()),
        }
    }
}

fn in_range(name: &'static str, value: f32, allowed: RangeInclusive<f32>, range: &'static str) -> Result<()> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(Error::Parameter { name, value: value.to_string(), range })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_values_outside_their_ranges() {
        let edit = |change: &dyn Fn(&mut SamplingParams)| {
            let mut params = SamplingParams::default();
            change(&mut params);
            params.check()
        };
        type Field = fn(&mut SamplingParams) -> &mut f32;
        let fields: [(Field, f32, f32); 13] = [
            (|p| &mut p.temperature, 0.0, 100.0),
            (|p| &mut p.top_p, 0.0, 1.0),
            (|p| &mut p.min_p, 0.0, 1.0),
            (|p| &mut p.typical_p, 0.0, 1.0),
            (|p| &mut p.penalties.repeat, 0.001, 100.0),
            (|p| &mut p.penalties.presence, -2.0, 2.0),
            (|p| &mut p.penalties.frequency, -2.0, 2.0),
            (|p| &mut p.dry.multiplier, 0.0, 100.0),
            (|p| &mut p.dry.base, 1.0, 100.0),
            (|p| &mut p.xtc.probability, 0.0, 1.0),
            (|p| &mut p.xtc.threshold, 0.0, 1.0),
            (|p| &mut p.mirostat.get_or_insert_default().tau, 0.0, 100.0),
            (|p| &mut p.mirostat.get_or_insert_default().eta, 0.0, 1.0),
        ];
        for (i, (field, low, high)) in fields.into_iter().enumerate() {
            for good in [low, high] {
                assert!(edit(&|p| *field(p) = good).is_ok(), "field {i}: {good}");
            }
            for bad in [low - 0.5, high + 0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let result = edit(&|p| *field(p) = bad);
                assert!(matches!(result, Err(Error::Parameter { .. })), "field {i}: {bad}");
            }
        }
        assert!(edit(&|p| p.dry.allowed_length = 0).is_err());
        assert!(edit(&|p| p.logit_bias = vec![(0, f32::NEG_INFINITY), (1, 100.0)]).is_ok());
        for bad in [f32::NAN, 100.5, f32::INFINITY] {
            assert!(edit(&|p| p.logit_bias = vec![(0, 0.0), (1, bad)]).is_err());
        }
    }

    #[test]
    fn refuses_unknown_ids() {
        let biased = SamplingParams { logit_bias: vec![(9, 1.0), (10, 1.0)], ..Default::default() };
        assert!(biased.check_ids(11).is_ok());
        assert!(matches!(biased.check_ids(10), Err(Error::UnknownToken { id: 10, n_vocab: 10 })));
        let dry = DryParams { breakers: vec![3], ..Default::default() };
        assert!(SamplingParams { dry, ..Default::default() }.check_ids(3).is_err());
    }
}
