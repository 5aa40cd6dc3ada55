//! Sampling parameters, checked once.

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
    /// Whether every penalty is off.
    pub fn is_off(&self) -> bool {
        self.repeat == 1.0 && self.presence == 0.0 && self.frequency == 0.0
    }
}

/// How the next token is chosen. The stages run in this order: penalties,
/// top-k, top-p, min-p, temperature, draw.
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
    /// Penalties on repetition.
    pub penalties: PenaltyParams,
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
            penalties: PenaltyParams::default(),
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Always the most likely token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Refuses values outside their ranges, NaN and infinity included.
    ///
    /// # Errors
    /// [`Error::Parameter`] naming the first one that is wrong.
    pub fn check(&self) -> Result<()> {
        let p = &self.penalties;
        in_range("temperature", self.temperature, 0.0..=100.0, "from 0 to 100")?;
        in_range("top_p", self.top_p, 0.0..=1.0, "from 0 to 1")?;
        in_range("min_p", self.min_p, 0.0..=1.0, "from 0 to 1")?;
        in_range("repeat_penalty", p.repeat, f32::MIN_POSITIVE..=100.0, "above 0 and at most 100")?;
        in_range("presence_penalty", p.presence, -2.0..=2.0, "from -2 to 2")?;
        in_range("frequency_penalty", p.frequency, -2.0..=2.0, "from -2 to 2")
    }
}

fn in_range(
    name: &'static str,
    value: f32,
    allowed: std::ops::RangeInclusive<f32>,
    range: &'static str,
) -> Result<()> {
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
        let ok = SamplingParams::default();
        assert!(ok.check().is_ok());
        let bad = [
            SamplingParams { temperature: f32::NAN, ..ok.clone() },
            SamplingParams { temperature: -1.0, ..ok.clone() },
            SamplingParams { temperature: f32::INFINITY, ..ok.clone() },
            SamplingParams { top_p: 1.5, ..ok.clone() },
            SamplingParams { min_p: -0.1, ..ok.clone() },
            SamplingParams { penalties: PenaltyParams { repeat: 0.0, ..ok.penalties }, ..ok.clone() },
            SamplingParams { penalties: PenaltyParams { presence: 3.0, ..ok.penalties }, ..ok.clone() },
            SamplingParams { penalties: PenaltyParams { frequency: f32::NAN, ..ok.penalties }, ..ok },
        ];
        for params in bad {
            assert!(matches!(params.check(), Err(Error::Parameter { .. })), "{params:?}");
        }
    }
}
