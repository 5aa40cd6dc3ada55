//! `config.json` as GGUF metadata.

use std::path::Path;

use gguf::{Array, Metadata};
use serde_json::Value;

use super::names::Family;
use super::rope::Rope;
use crate::{Error, Result, supported_architectures};

/// Whether a path is a directory in Hugging Face layout.
pub fn is_directory(path: &Path) -> bool {
    path.join("config.json").is_file()
}

/// A parsed `config.json` of an architecture we know.
#[derive(Debug)]
pub(super) struct Config {
    json: Value,
    pub family: Family,
}

impl Config {
    /// # Errors
    /// [`Error::Config`] when it is no JSON object, [`Error::UnknownArchitecture`].
    pub fn parse(text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text)
            .map_err(|e| wrong("config.json", "its text", format!("is not JSON: {e}")))?;
        let found = json.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let found = found.ok_or_else(|| missing("architectures"))?;
        let Some(family) = Family::of(found) else {
            return Err(Error::UnknownArchitecture {
                found: found.to_owned(),
                supported: supported_architectures().collect::<Vec<_>>().join(", "),
            });
        };
        Ok(Self { json, family })
    }

    /// A value that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// A count.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        let number = |value: &Value| {
            let found = value.as_u64().and_then(|x| u32::try_from(x).ok());
            found.ok_or_else(|| wrong(key, value, "must be an integer from 0 to 2^32-1"))
        };
        self.get(key).map(number).transpose()
    }

    /// A count that must be there.
    pub fn required(&self, key: &str) -> Result<u32> {
        self.u32(key)?.ok_or_else(|| missing(key))
    }

    fn f32(&self, key: &str) -> Result<Option<f32>> {
        let number = |value: &Value| {
            let found = value.as_f64().map(|x| x as f32);
            found.ok_or_else(|| wrong(key, value, "must be a number"))
        };
        self.get(key).map(number).transpose()
    }

    fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether the embeddings are the output projection too, and a copy of them in the file is surplus.
    pub fn tied(&self) -> bool {
        self.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(self.family.is_gemma())
    }

    /// Number of experts; 0 for dense models.
    pub fn n_experts(&self) -> Result<u32> {
        match self.u32("num_local_experts")? {
            None => Ok(self.u32("num_experts")?.unwrap_or(0)),
            Some(found) => Ok(found),
        }
    }

    /// Elements a head.
    pub fn head_dim(&self) -> Result<u32> {
        // Granite's configurations carry a head dimension that its models do not use.
        match self.u32("head_dim")?.filter(|_| self.family != Family::Granite) {
            Some(found) => Ok(found),
            None => {
                let heads = self.required("num_attention_heads")?;
                let width = self.required("hidden_size")?;
                width
                    .checked_div(heads)
                    .ok_or_else(|| wrong("num_attention_heads", heads, "must be at least 1"))
            }
        }
    }

    /// All of it under GGUF's keys.
    pub fn metadata(&self) -> Result<Metadata> {
        self.refuse_what_would_be_ignored()?;
        let arch = self.family.architecture();
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", arch);
        for (key, suffix) in [
            ("num_hidden_layers", "block_count"),
            ("max_position_embeddings", "context_length"),
            ("hidden_size", "embedding_length"),
            ("intermediate_size", "feed_forward_length"),
            ("num_attention_heads", "attention.head_count"),
            ("vocab_size", "vocab_size"),
        ] {
            metadata.insert(format!("{arch}.{suffix}"), self.required(key)?);
        }
        for (key, suffix) in [
            ("num_key_value_heads", "attention.head_count_kv"),
            ("num_experts_per_tok", "expert_used_count"),
            ("moe_intermediate_size", "expert_feed_forward_length"),
        ] {
            if let Some(value) = self.u32(key)? {
                metadata.insert(format!("{arch}.{suffix}"), value);
            }
        }
        metadata.insert(format!("{arch}.expert_count"), self.n_experts()?);
        for suffix in ["attention.key_length", "attention.value_length"] {
            metadata.insert(format!("{arch}.{suffix}"), self.head_dim()?);
        }
        self.scalars(&mut metadata)?;
        self.window(&mut metadata)?;
        Rope::read(self)?.insert(arch, &mut metadata);
        Ok(metadata)
    }

    fn scalars(&self, metadata: &mut Metadata) -> Result<()> {
        let arch = self.family.architecture();
        let eps = self.f32("rms_norm_eps")?.ok_or_else(|| missing("rms_norm_eps"))?;
        metadata.insert(format!("{arch}.attention.layer_norm_rms_epsilon"), eps);
        for (key, suffix) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
            ("logits_scaling", "logit_scale"),
            ("residual_multiplier", "residual_scale"),
            ("embedding_multiplier", "embedding_scale"),
            ("attention_multiplier", "attention.scale"),
        ] {
            if let Some(value) = self.f32(key)? {
                metadata.insert(format!("{arch}.{suffix}"), value);
            }
        }
        if let Some(dim) = self.f32("query_pre_attn_scalar")? {
            metadata.insert(format!("{arch}.attention.scale"), 1.0 / dim.sqrt());
        }
        Ok(())
    }

    /// Sliding windows, where the architecture's models use the one they name.
    fn window(&self, metadata: &mut Metadata) -> Result<()> {
        let arch = self.family.architecture();
        let Some(window) = self.u32("sliding_window")?.filter(|_| self.family.has_window()) else {
            return Ok(());
        };
        metadata.insert(format!("{arch}.attention.sliding_window"), window);
        if !self.family.is_gemma() {
            return Ok(());
        }
        let pattern = format!("{arch}.attention.sliding_window_pattern");
        match self.get("layer_types").and_then(Value::as_array) {
            Some(types) => {
                let windowed = types.iter().map(|kind| match kind.as_str() {
                    Some("sliding_attention") => Ok(true),
                    Some("full_attention") => Ok(false),
                    _ => Err(wrong("layer_types", kind, "is not an attention type this build knows")),
                });
                metadata.insert(pattern, Array::Bool(windowed.collect::<Result<_>>()?));
            }
            None => {
                if let Some(every) = self.u32("sliding_window_pattern")? {
                    metadata.insert(pattern, every);
                }
            }
        }
        Ok(())
    }

    /// Settings that change the model and that nothing here carries out.
    fn refuse_what_would_be_ignored(&self) -> Result<()> {
        let refuse = |key: &str, problem| {
            let found = self.get(key).map(Value::to_string).unwrap_or_default();
            Err(wrong(key, found, problem))
        };
        if self.get("quantization_config").is_some() {
            return refuse("quantization_config", "is not supported; use the unquantised model or GGUF");
        }
        if self.flag("use_sliding_window") {
            return refuse("use_sliding_window", "is not supported for this architecture");
        }
        if self.family.has_experts() && !self.flag("norm_topk_prob") && self.family == Family::Qwen3Moe {
            return refuse("norm_topk_prob", "must be true: only normalised routing is supported");
        }
        if self.u32("decoder_sparse_step")?.is_some_and(|step| step != 1)
            || self.get("mlp_only_layers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
        {
            return refuse("mlp_only_layers", "is not supported: every layer must have experts");
        }
        let activation = self.get("hidden_activation").or_else(|| self.get("hidden_act"));
        match activation.and_then(Value::as_str) {
            None => Ok(()),
            Some("silu") if !self.family.is_gemma() => Ok(()),
            Some("gelu_pytorch_tanh") if self.family.is_gemma() => Ok(()),
            Some(found) => Err(wrong("hidden_act", found, "is not what this architecture uses")),
        }
    }
}

/// The error for a setting that is not there.
pub(super) fn missing(key: &str) -> Error {
    wrong(key, "null", "must be there")
}

/// The error for a setting that is wrong.
pub(super) fn wrong(key: &str, found: impl ToString, problem: impl Into<String>) -> Error {
    Error::Config { key: key.to_owned(), found: found.to_string(), problem: problem.into() }
}
