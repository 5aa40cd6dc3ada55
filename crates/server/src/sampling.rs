//! How tokens are chosen and when they end: the fields that OpenAI's requests and ours share.

use std::hash::{BuildHasher, RandomState};

use engine::{PenaltyParams, Request, SamplingParams};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::{ApiError, Result};
use crate::fields::OneOrMany;

/// The fields on sampling: OpenAI's, and those that llama.cpp's server added.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SamplingFields {
    /// Randomness, from 0 (always the likeliest token) to 100.
    pub temperature: Option<f32>,
    /// Consider the likeliest tokens that together reach this probability.
    pub top_p: Option<f32>,
    /// Consider only so many of the likeliest tokens; 0 considers all.
    pub top_k: Option<u32>,
    /// Consider tokens at least so likely, relative to the likeliest.
    pub min_p: Option<f32>,
    /// Makes tokens that were used recently less likely; 1 is off.
    pub repeat_penalty: Option<f32>,
    /// Subtracted from the logit of every token used recently.
    pub presence_penalty: Option<f32>,
    /// Subtracted for every time a token was used recently.
    pub frequency_penalty: Option<f32>,
    /// How many of the last tokens the penalties look at; -1: all.
    pub repeat_last_n: Option<i64>,
    /// Same seed, same answer; -1 or nothing: a new one each time.
    pub seed: Option<i64>,
    /// Texts that end the reply and are not part of it, at most 64.
    pub stop: Option<OneOrMany<String>>,
    /// Tokens that end the reply.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Go on past the model's own end of text.
    pub ignore_eos: Option<bool>,
}

impl SamplingFields {
    /// A request to continue `prompt`.
    pub fn request(&self, prompt: Vec<u32>, max_tokens: Option<usize>) -> Result<Request> {
        Ok(Request {
            max_tokens,
            sampling: self.params()?,
            stop: self.stop.clone().map(Vec::from).unwrap_or_default(),
            stop_ids: self.stop_token_ids.clone().unwrap_or_default(),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            ..Request::new(prompt)
        })
    }

    /// The engine's parameters; it checks their ranges.
    fn params(&self) -> Result<SamplingParams> {
        let default = SamplingParams::default();
        let penalties = PenaltyParams {
            repeat: self.repeat_penalty.unwrap_or(default.penalties.repeat),
            presence: self.presence_penalty.unwrap_or(default.penalties.presence),
            frequency: self.frequency_penalty.unwrap_or(default.penalties.frequency),
            last_n: last_n(self.repeat_last_n)?.unwrap_or(default.penalties.last_n),
        };
        let params = SamplingParams {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.map_or(default.top_k, |k| k as usize),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            penalties,
            seed: seed(self.seed),
            ..default
        };
        params.check().map_err(ApiError::from)?;
        Ok(params)
    }
}

/// A number of tokens, -1 for all.
fn last_n(asked: Option<i64>) -> Result<Option<usize>> {
    match asked {
        None => Ok(None),
        Some(-1) => Ok(Some(usize::MAX)),
        Some(n) => usize::try_from(n).map(Some).map_err(|_| {
            ApiError::field("repeat_last_n", format!("repeat_last_n is {n}, but must be at least -1"))
        }),
    }
}

/// The seed asked for, or one that nobody can guess.
fn seed(asked: Option<i64>) -> u64 {
    match asked {
        None | Some(-1) => RandomState::new().hash_one(0),
        Some(seed) => seed.cast_unsigned(),
    }
}
