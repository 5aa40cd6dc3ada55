//! How tokens are chosen and when they end: the fields that OpenAI's requests and ours share.

use std::hash::{BuildHasher, RandomState};

use engine::{DryParams, MirostatParams, PenaltyParams, Request, SamplingParams, XtcParams, breaker_ids};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::bias;
use crate::error::{ApiError, Result};
use crate::fields::OneOrMany;
use crate::registry::Model;

/// Most texts that break repetitions in a request: each is looked for in all tokens.
const MAX_BREAKERS: usize = 16;

/// What repetitions do not reach across, unless a request says otherwise: as
/// everywhere else.
const DRY_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

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
    /// Consider tokens whose surprise is near the expected one; 1 is off.
    pub typical_p: Option<f32>,
    /// Strength of the penalty on long repetitions (DRY); 0 is off.
    pub dry_multiplier: Option<f32>,
    /// How it grows with each repeated token.
    pub dry_base: Option<f32>,
    /// Repetitions shorter than this cost nothing.
    pub dry_allowed_length: Option<usize>,
    /// How many of the last tokens are searched for repetitions; -1: all.
    pub dry_penalty_last_n: Option<i64>,
    /// Texts that no repetition reaches across.
    pub dry_sequence_breakers: Option<Vec<String>>,
    /// How often the likeliest tokens are left out (XTC); 0 is off.
    pub xtc_probability: Option<f32>,
    /// From which probability they are.
    pub xtc_threshold: Option<f32>,
    /// 2: mirostat 2, which takes the place of the cuts (`top_k` to `xtc_probability`), so that asking
    /// for one of them as well is an error; 0: off.
    pub mirostat: Option<u32>,
    /// The surprise it aims at, in bits a token.
    pub mirostat_tau: Option<f32>,
    /// How fast it follows.
    pub mirostat_eta: Option<f32>,
    /// Added to the logits of tokens: `{"ID": BIAS, …}`, where -100 bans one, or
    /// `[[ID or TEXT, BIAS or false], …]`.
    #[schema(value_type = Option<Value>)]
    pub logit_bias: Option<Value>,
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
    pub fn request(&self, model: &Model, prompt: Vec<u32>, max_tokens: Option<usize>) -> Result<Request> {
        Ok(Request {
            max_tokens,
            sampling: self.params(model)?,
            stop: self.stop.clone().map(Vec::from).unwrap_or_default(),
            stop_ids: self.stop_token_ids.clone().unwrap_or_default(),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            ..Request::new(prompt)
        })
    }

    /// The engine's parameters; it checks their ranges.
    fn params(&self, model: &Model) -> Result<SamplingParams> {
        let default = SamplingParams::default();
        let penalties = PenaltyParams {
            repeat: self.repeat_penalty.unwrap_or(default.penalties.repeat),
            presence: self.presence_penalty.unwrap_or(default.penalties.presence),
            frequency: self.frequency_penalty.unwrap_or(default.penalties.frequency),
            last_n: last_n("repeat_last_n", self.repeat_last_n)?.unwrap_or(default.penalties.last_n),
        };
        let params = SamplingParams {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.map_or(default.top_k, |k| k as usize),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            typical_p: self.typical_p.unwrap_or(default.typical_p),
            penalties,
            dry: self.dry(model)?,
            xtc: XtcParams {
                probability: self.xtc_probability.unwrap_or(default.xtc.probability),
                threshold: self.xtc_threshold.unwrap_or(default.xtc.threshold),
            },
            mirostat: self.mirostat()?,
            logit_bias: match &self.logit_bias {
                Some(value) => bias::parse(value, &model.tokenizer)?,
                None => Vec::new(),
            },
            seed: seed(self.seed),
        };
        params.check().map_err(ApiError::from)?;
        Ok(params)
    }

    fn dry(&self, model: &Model) -> Result<DryParams> {
        let default = DryParams::default();
        let multiplier = self.dry_multiplier.unwrap_or(default.multiplier);
        let breakers = match (multiplier == 0.0, &self.dry_sequence_breakers) {
            (true, _) => Vec::new(),
            (false, Some(texts)) if texts.len() > MAX_BREAKERS => {
                let message = format!("dry_sequence_breakers has more than {MAX_BREAKERS} texts");
                return Err(ApiError::field("dry_sequence_breakers", message));
            }
            (false, Some(texts)) => breaker_ids(&model.tokenizer, texts),
            (false, None) => breaker_ids(&model.tokenizer, &DRY_BREAKERS.map(str::to_owned)),
        };
        Ok(DryParams {
            multiplier,
            base: self.dry_base.unwrap_or(default.base),
            allowed_length: self.dry_allowed_length.unwrap_or(default.allowed_length),
            last_n: last_n("dry_penalty_last_n", self.dry_penalty_last_n)?.unwrap_or(default.last_n),
            breakers,
        })
    }

    fn mirostat(&self) -> Result<Option<MirostatParams>> {
        let default = MirostatParams::default();
        match self.mirostat {
            None | Some(0) => Ok(None),
            Some(2) => {
                self.check_no_cuts()?;
                Ok(Some(MirostatParams {
                    tau: self.mirostat_tau.unwrap_or(default.tau),
                    eta: self.mirostat_eta.unwrap_or(default.eta),
                }))
            }
            Some(n) => {
                Err(ApiError::field("mirostat", format!("mirostat is {n}, but only 0 and 2 are known")))
            }
        }
    }

    /// Refuses cuts beside mirostat, which would be passed over in silence.
    fn check_no_cuts(&self) -> Result<()> {
        let is_on = |value: Option<f32>, off: f32| value.is_some_and(|value| value != off);
        let cuts = [
            ("top_k", self.top_k.is_some_and(|k| k != 0)),
            ("top_p", is_on(self.top_p, 1.0)),
            ("min_p", is_on(self.min_p, 0.0)),
            ("typical_p", is_on(self.typical_p, 1.0)),
            ("xtc_probability", is_on(self.xtc_probability, 0.0)),
        ];
        match cuts.into_iter().find(|(_, on)| *on) {
            Some((name, _)) => {
                let message =
                    format!("{name} has no effect with mirostat, which cuts by itself; leave one out");
                Err(ApiError::field(name, message))
            }
            None => Ok(()),
        }
    }
}

/// A number of tokens, -1 for all.
fn last_n(name: &'static str, asked: Option<i64>) -> Result<Option<usize>> {
    match asked {
        None => Ok(None),
        Some(-1) => Ok(Some(usize::MAX)),
        Some(n) => usize::try_from(n)
            .map(Some)
            .map_err(|_| ApiError::field(name, format!("{name} is {n}, but must be at least -1"))),
    }
}

/// The seed asked for, or one that nobody can guess.
fn seed(asked: Option<i64>) -> u64 {
    match asked {
        None | Some(-1) => RandomState::new().hash_one(0),
        Some(seed) => seed.cast_unsigned(),
    }
}
