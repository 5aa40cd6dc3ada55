//! What Ollama's two ways to ask share: options, and fields that mean nothing here.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};
use crate::fields::{accept, parse, take};
use crate::registry::Model;
use crate::sampling::SamplingFields;

/// How replies are made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    sampling: SamplingFields,
    lengths: Lengths,
}

/// The options that are about lengths.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lengths {
    num_predict: Option<i64>,
    num_ctx: Option<u64>,
}

/// How the model is loaded and computed is the server's business.
const ACCEPTED: [&str; 15] = [
    "num_keep",
    "num_batch",
    "num_gpu",
    "num_gqa",
    "main_gpu",
    "num_thread",
    "numa",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "use_mmap",
    "use_mlock",
    "penalize_newline",
    "tfs_z",
];

impl Options {
    /// Reads the `options` of a request.
    pub fn new(options: Option<Map<String, Value>>) -> Result<Self> {
        let Some(mut options) = options else { return Ok(Self::default()) };
        accept(&mut options, &ACCEPTED);
        let within = |error: ApiError| {
            let param = error.param.map(|param| format!("options.{param}"));
            ApiError { param, ..error }
        };
        let lengths = take(&mut options).map_err(within)?;
        Ok(Self { lengths, sampling: parse(options).map_err(within)? })
    }

    /// Refuses a longer context than the model is served with.
    pub fn check_context(&self, model: &Model) -> Result<()> {
        let context = u64::from(model.engine.limits().max_context);
        if self.lengths.num_ctx.is_some_and(|wanted| wanted > context) {
            let message = format!("options.num_ctx is more than the context of {context} tokens served here");
            return Err(ApiError::field("options.num_ctx", message));
        }
        Ok(())
    }

    /// A request to continue `prompt`.
    pub fn request(&self, model: &Model, prompt: Vec<u32>) -> Result<engine::Request> {
        self.check_context(model)?;
        let max_tokens = match self.lengths.num_predict {
            // Ollama's words for: until the model ends, or the context is full.
            None | Some(-1 | -2) => None,
            Some(n) => Some(usize::try_from(n).map_err(|_| {
                ApiError::field(
                    "options.num_predict",
                    format!("options.num_predict is {n}, but must be at least -2"),
                )
            })?),
        };
        self.sampling.request(model, prompt, max_tokens)
    }
}

/// Refuses what would change the reply and is not there.
pub(crate) fn check_images(images: Option<&Vec<String>>) -> Result<()> {
    if images.is_some_and(|images| !images.is_empty()) {
        return Err(ApiError::unsupported("images", "an image"));
    }
    Ok(())
}

/// Whether the model thinks first: true, false, or how hard.
pub(crate) fn thinking(think: Option<&Value>) -> Result<Option<bool>> {
    match think {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(think)) => Ok(Some(*think)),
        Some(Value::String(_)) => Ok(Some(true)),
        Some(_) => Err(ApiError::field("think", "think should be true, false or a word")),
    }
}
