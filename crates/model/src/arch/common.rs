//! What nearly all architectures share: dimensions, and a plain pre-norm layer
//! that each architecture's file then changes where it differs.

use backend::kernels::swiglu_linear_add::Activation;

use super::rotary::{self, Rotary};
use crate::config::{
    AttentionConfig, FfnConfig, GateUpTensors, LayerConfig, ModelConfig, Norms, OutputConfig, OutputWeight,
    Pooling, Positions, QkNorms, QkvTensors, RopeConfig, Span,
};
use crate::source::Source;
use crate::{Error, Result};

/// Hyper-parameters under the keys that every architecture uses.
pub(super) struct Common<'a> {
    pub source: Source<'a>,
    pub n_embd: usize,
    pub context_length: u32,
    pub n_heads: Vec<usize>,
    n_kv_heads: Vec<usize>,
    n_ff: Vec<usize>,
    pub k_dim: usize,
    v_dim: usize,
    norm_eps: f32,
    n_vocab: usize,
    pooling: Pooling,
    experts: Option<Experts>,
}

/// Mixture-of-experts dimensions.
struct Experts {
    n_experts: usize,
    n_used: usize,
    n_ff: Option<usize>,
}

impl<'a> Common<'a> {
    /// Reads and checks them.
    pub fn read(source: Source<'a>) -> Result<Self> {
        let n_layers = layers(source)?;
        let n_embd = required(source, "embedding_length", source.dimension("embedding_length")?)?;
        let n_heads = source.per_layer("attention.head_count", n_layers)?;
        let n_heads = required(source, "attention.head_count", n_heads)?;
        let n_kv_heads = source.per_layer("attention.head_count_kv", n_layers)?;
        let n_kv_heads = n_kv_heads.unwrap_or_else(|| n_heads.clone());
        for (&heads, &kv_heads) in n_heads.iter().zip(&n_kv_heads) {
            if !heads.is_multiple_of(kv_heads) {
                let problem = format!("is not a multiple of attention.head_count_kv = {kv_heads}");
                return Err(source.wrong("attention.head_count", heads, problem));
            }
        }
        let head_dim = n_embd / n_heads[0];
        let dim = |key| match source.dimension(key)? {
            None if head_dim == 0 => {
                Err(source.wrong("attention.head_count", n_heads[0], "exceeds the embedding length"))
            }
            found => Ok(found.unwrap_or(head_dim)),
        };
        let experts = experts(source)?;
        let n_ff = match source.per_layer("feed_forward_length", n_layers)? {
            // Pure mixtures need not name a dense width.
            None if experts.as_ref().is_some_and(|e| e.n_ff.is_some()) => vec![0; n_layers],
            found => required(source, "feed_forward_length", found)?,
        };
        Ok(Self {
            n_embd,
            context_length: match source.required_u32("context_length")? {
                0 => return Err(source.wrong("context_length", 0, "must be at least 1")),
                found => found,
            },
            k_dim: dim("attention.key_length")?,
            v_dim: dim("attention.value_length")?,
            norm_eps: eps(source)?,
            n_vocab: vocabulary(source)?,
            pooling: pooling(source)?,
            source,
            n_heads,
            n_kv_heads,
            n_ff,
            experts,
        })
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.n_heads.len()
    }

    /// The rotary embedding the file describes.
    pub fn rotary(&self, kind: Rotary) -> Result<RopeConfig> {
        rotary::read(self.source, self.k_dim, self.context_length, kind)
    }

    /// Layer `layer` of a plain model: pre-norm, full attention scaled by the
    /// root of the head dimension, SiLU; biases and fused projections as the file has them.
    pub fn layer(&self, layer: usize, rope: &RopeConfig) -> LayerConfig {
        let has = |suffix| self.source.layer_has(layer, suffix);
        let fused = has("attn_qkv.weight");
        let attention = AttentionConfig {
            span: Span::Full,
            n_heads: self.n_heads[layer],
            n_kv_heads: self.n_kv_heads[layer],
            k_dim: self.k_dim,
            v_dim: self.v_dim,
            qkv: if fused { QkvTensors::Fused } else { QkvTensors::Separate },
            qkv_bias: has(if fused { "attn_qkv.bias" } else { "attn_q.bias" }),
            output_bias: has("attn_output.bias"),
            qk_norms: QkNorms::None,
            positions: Positions::Rotary(rope.clone()),
            scale: 1.0 / (self.k_dim as f32).sqrt(),
            softcap: None,
        };
        LayerConfig {
            attention,
            ffn: self.ffn(layer),
            norm_eps: self.norm_eps,
            norms: Norms::Pre,
            residual_scale: 1.0,
        }
    }

    fn ffn(&self, layer: usize) -> FfnConfig {
        let activation = Activation::Silu;
        match &self.experts {
            None => FfnConfig::Dense {
                n_ff: self.n_ff[layer],
                activation,
                gate_up: GateUpTensors::Separate,
                bias: self.source.layer_has(layer, "ffn_down.bias"),
            },
            Some(experts) => FfnConfig::Moe {
                n_ff: experts.n_ff.unwrap_or(self.n_ff[layer]),
                n_experts: experts.n_experts,
                n_used: experts.n_used,
                renormalise: true,
                activation,
            },
        }
    }

    /// A model of these layers, with unscaled embeddings and logits; the output
    /// projection is the embeddings where the file has no other.
    pub fn model(&self, layers: Vec<LayerConfig>) -> ModelConfig {
        let separate = self.source.has("output.weight");
        let rotary = layers.iter().find_map(|layer| match &layer.attention.positions {
            Positions::Rotary(rope) => Some(rotary::tensors(&rope.factors)),
            Positions::None => None,
        });
        ModelConfig {
            architecture: self.source.architecture.to_owned(),
            n_vocab: self.n_vocab,
            n_embd: self.n_embd,
            context_length: self.context_length,
            embedding_scale: 1.0,
            layers,
            output: OutputConfig {
                norm_eps: self.norm_eps,
                weight: if separate { OutputWeight::Separate } else { OutputWeight::Tied },
                scale: 1.0,
                softcap: None,
            },
            pooling: self.pooling,
            config_tensors: rotary.unwrap_or_default(),
        }
    }
}

/// A value that must be there.
pub(super) fn required<T>(source: Source<'_>, suffix: &str, found: Option<T>) -> Result<T> {
    Ok(gguf::metadata::require(&source.key(suffix), found)?)
}

/// The number of layers, bounded by the number of tensors so that a number in
/// a tiny file cannot make us reserve memory.
fn layers(source: Source<'_>) -> Result<usize> {
    let found = source.required_u32("block_count")?;
    let tensors = source.file.tensors.len();
    match found as usize {
        0 => Err(source.wrong("block_count", 0, "must be at least 1")),
        n if n > tensors => {
            let problem = format!("is more than the file's {tensors} tensors could fill");
            Err(source.wrong("block_count", found, problem))
        }
        n => Ok(n),
    }
}

fn eps(source: Source<'_>) -> Result<f32> {
    let key = "attention.layer_norm_rms_epsilon";
    let found = required(source, key, source.positive(key)?)?;
    if found < 1.0 { Ok(found) } else { Err(source.wrong(key, found, "must be less than 1")) }
}

/// Vocabulary size: the length of the token list, which `vocab_size` must not contradict.
fn vocabulary(source: Source<'_>) -> Result<usize> {
    let tokens = source.file.metadata.strings("tokenizer.ggml.tokens")?.map(<[String]>::len);
    match (tokens, source.dimension("vocab_size")?) {
        (None, found) => required(source, "vocab_size", found),
        (Some(0), _) => Err(Error::Config {
            key: "tokenizer.ggml.tokens".into(),
            found: "an empty list".into(),
            problem: "must have at least one token".into(),
        }),
        (Some(tokens), Some(size)) if tokens != size => {
            Err(source.wrong("vocab_size", size, format!("differs from the {tokens} tokens listed")))
        }
        (Some(tokens), _) => Ok(tokens),
    }
}

/// How the file wants its hidden states pooled; those made for generation do not say, or say `none`.
fn pooling(source: Source<'_>) -> Result<Pooling> {
    match source.u32("pooling_type")? {
        None | Some(0 | 3) => Ok(Pooling::Last),
        Some(1) => Ok(Pooling::Mean),
        Some(2) => Ok(Pooling::First),
        Some(4) => Err(source.wrong("pooling_type", 4, "is a ranking, whose head is not supported")),
        Some(found) => Err(source.wrong("pooling_type", found, "must be from 0 to 4")),
    }
}

fn experts(source: Source<'_>) -> Result<Option<Experts>> {
    let n_experts = source.u32("expert_count")?.unwrap_or(0) as usize;
    if n_experts == 0 {
        return Ok(None);
    }
    if n_experts > 4096 {
        return Err(source.wrong("expert_count", n_experts, "must be at most 4096"));
    }
    let n_used = source.required_u32("expert_used_count")? as usize;
    if n_used == 0 || n_used > n_experts {
        let problem = format!("must be from 1 to expert_count = {n_experts}");
        return Err(source.wrong("expert_used_count", n_used, problem));
    }
    Ok(Some(Experts { n_experts, n_used, n_ff: source.dimension("expert_feed_forward_length")? }))
}
