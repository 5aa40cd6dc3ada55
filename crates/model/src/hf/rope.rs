//! Rotary settings: the keys of older configurations (`rope_theta`,
//! `rope_scaling`) and of newer ones (`rope_parameters`) as GGUF keys, and the
//! factor tensors that converters compute from them.

use gguf::{Metadata, Value as GgufValue};
use serde_json::Value;

use super::config::{Config, missing, wrong};
use crate::Result;

/// Rotary settings under GGUF's key suffixes, and factor tensors by name.
#[derive(Debug, Default)]
pub(super) struct Rope {
    keys: Vec<(&'static str, GgufValue)>,
    pub factors: Vec<(&'static str, Vec<f32>)>,
}

impl Rope {
    pub fn insert(self, arch: &str, metadata: &mut Metadata) {
        for (suffix, value) in self.keys {
            metadata.insert(format!("{arch}.{suffix}"), value);
        }
    }

    /// # Errors
    /// [`crate::Error::Config`] for a kind of scaling or a number that is wrong.
    pub fn read(config: &Config) -> Result<Self> {
        let settings = Settings::of(config);
        let mut rope = Self::default();
        if let Some(base) = settings.number("rope_theta")? {
            rope.keys.push(("rope.freq_base", base.into()));
        }
        if let Some(base) = settings.local_base()? {
            rope.keys.push(("rope.freq_base_swa", base.into()));
        }
        let share = settings.number("partial_rotary_factor")?.unwrap_or(1.0);
        let n_dims = (f64::from(share) * f64::from(config.head_dim()?)) as u32;
        rope.keys.push(("rope.dimension_count", n_dims.into()));
        let original = settings.count("original_max_position_embeddings")?;
        match settings.kind() {
            None | Some("default") => {}
            Some(kind @ ("linear" | "yarn")) => {
                let factor = settings.number("factor")?.ok_or_else(|| missing("rope_scaling.factor"))?;
                rope.keys.push(("rope.scaling.type", kind.into()));
                rope.keys.push(("rope.scaling.factor", factor.into()));
                rope.yarn(&settings, original)?;
            }
            Some("llama3") => rope.llama3(&settings, n_dims, original)?,
            Some("longrope" | "su") => rope.longrope(config, &settings, n_dims)?,
            Some(kind) => return Err(wrong("rope_scaling.rope_type", kind, "is not supported")),
        }
        Ok(rope)
    }

    fn yarn(&mut self, settings: &Settings<'_>, original: Option<u32>) -> Result<()> {
        if let Some(original) = original {
            self.keys.push(("rope.scaling.original_context_length", original.into()));
        }
        for (key, suffix) in
            [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")]
        {
            if let Some(value) = settings.number(key)? {
                self.keys.push((suffix, value.into()));
            }
        }
        for key in ["attention_factor", "mscale", "mscale_all_dim"] {
            if let Some(value) = settings.number(key)? {
                return Err(wrong(&format!("rope_scaling.{key}"), value, "is not supported"));
            }
        }
        Ok(())
    }

    /// Llama 3.1: long waves are slowed by `factor`, short ones kept, with a
    /// smooth step between two wavelengths.
    fn llama3(&mut self, settings: &Settings<'_>, n_dims: u32, original: Option<u32>) -> Result<()> {
        let number =
            |key, default| Ok::<_, crate::Error>(f64::from(settings.number(key)?.unwrap_or(default)));
        let base = number("rope_theta", 10_000.0)?;
        let (factor, low, high) =
            (number("factor", 8.0)?, number("low_freq_factor", 1.0)?, number("high_freq_factor", 4.0)?);
        let original = f64::from(original.unwrap_or(8192));
        let divisor = |pair: u32| {
            let wavelength = std::f64::consts::TAU * base.powf(f64::from(2 * pair) / f64::from(n_dims));
            // How many waves fit the original context, as a share of the way from `low` to `high`.
            let kept = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / (kept + (1.0 - kept) / factor)
        };
        let factors = (0..n_dims / 2).map(|pair| divisor(pair) as f32).collect();
        self.factors.push(("rope_freqs.weight", factors));
        Ok(())
    }

    fn longrope(&mut self, config: &Config, settings: &Settings<'_>, n_dims: u32) -> Result<()> {
        let original = match config.u32("original_max_position_embeddings")? {
            None => settings.count("original_max_position_embeddings")?,
            found => found,
        };
        let original = original.ok_or_else(|| missing("original_max_position_embeddings"))?;
        let scale = f64::from(config.required("max_position_embeddings")?) / f64::from(original);
        // The attention temperature of the LongRoPE paper, unless the file names one.
        let computed =
            if scale > 1.0 { (1.0 + scale.ln() / f64::from(original).ln()).sqrt() as f32 } else { 1.0 };
        let magnitude = settings.number("attention_factor")?.unwrap_or(computed);
        self.keys.push(("rope.scaling.attn_factor", magnitude.into()));
        self.keys.push(("rope.scaling.original_context_length", original.into()));
        for (key, tensor) in
            [("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")]
        {
            let list = settings.get(key).and_then(Value::as_array);
            let list = list.and_then(|list| list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
            let list: Vec<f32> = list.ok_or_else(|| missing(&format!("rope_scaling.{key}")))?;
            if list.len() != n_dims as usize / 2 {
                let problem = format!("must have {} entries", n_dims / 2);
                return Err(wrong(&format!("rope_scaling.{key}"), list.len(), problem));
            }
            self.factors.push((tensor, list));
        }
        Ok(())
    }
}

/// Where rotary settings are looked up: newest place first.
struct Settings<'a> {
    config: &'a Config,
    places: Vec<&'a Value>,
}

impl<'a> Settings<'a> {
    fn of(config: &'a Config) -> Self {
        let parameters = config.get("rope_parameters");
        let full = parameters.and_then(|p| p.get("full_attention"));
        Self {
            config,
            places: [full, parameters, config.get("rope_scaling")].into_iter().flatten().collect(),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        let nested = self.places.iter().find_map(|place| place.get(key).filter(|value| !value.is_null()));
        nested.or_else(|| self.config.get(key).filter(|_| TOP_LEVEL.contains(&key)))
    }

    fn kind(&self) -> Option<&'a str> {
        self.get("rope_type").or_else(|| self.get("type")).and_then(Value::as_str)
    }

    fn number(&self, key: &str) -> Result<Option<f32>> {
        let number = |value: &Value| {
            value
                .as_f64()
                .map(|x| x as f32)
                .ok_or_else(|| wrong(&format!("rope_scaling.{key}"), value, "must be a number"))
        };
        self.get(key).map(number).transpose()
    }

    fn count(&self, key: &str) -> Result<Option<u32>> {
        let number = |value: &Value| {
            let found = value.as_u64().and_then(|x| u32::try_from(x).ok()).filter(|&x| x > 0);
            found.ok_or_else(|| wrong(&format!("rope_scaling.{key}"), value, "must be a count"))
        };
        self.get(key).map(number).transpose()
    }

    /// Gemma 3's base of windowed layers.
    fn local_base(&self) -> Result<Option<f32>> {
        let nested = self.config.get("rope_parameters").and_then(|p| p.get("sliding_attention"));
        match nested
            .and_then(|local| local.get("rope_theta"))
            .or_else(|| self.config.get("rope_local_base_freq"))
        {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(base) => Ok(Some(base as f32)),
                None => Err(wrong("rope_local_base_freq", value, "must be a number")),
            },
        }
    }
}

/// Rotary settings that may also stand outside the nested places.
const TOP_LEVEL: [&str; 2] = ["rope_theta", "partial_rotary_factor"];
