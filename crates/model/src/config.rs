//! A model as plain data: everything the forward pass needs to know, checked
//! once while it is built from metadata, so that nothing later re-checks.

use std::sync::Arc;

use backend::kernels::rope_store::RopePairs;
use backend::kernels::swiglu_linear_add::Activation;

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// `general.architecture` of the file, for messages only.
    pub architecture: String,
    /// Tokens in the vocabulary.
    pub n_vocab: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Longest context the model was trained for, in tokens.
    pub context_length: u32,
    /// Multiplies token embeddings; 1 for most.
    pub embedding_scale: f32,
    /// The layers in order; at least one.
    pub layers: Vec<LayerConfig>,
    /// What turns the last hidden state into logits.
    pub output: OutputConfig,
    /// How a text's hidden states become its embedding, where nobody asks otherwise.
    pub pooling: Pooling,
    /// Tensors whose values went into this configuration (rotary factors).
    pub config_tensors: Vec<&'static str>,
}

/// One decoder layer: attention, then a feed-forward network, each added to
/// the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// Attention.
    pub attention: AttentionConfig,
    /// Feed-forward.
    pub ffn: FfnConfig,
    /// Epsilon of all its normalisations.
    pub norm_eps: f32,
    /// Whether each half's result is normalised again before it is added.
    pub norms: Norms,
    /// Multiplies what each half adds; 1 for most.
    pub residual_scale: f32,
}

/// Where a layer normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// Before each half.
    Pre,
    /// Before and after each half (Gemma 2 and 3).
    PreAndPost,
}

/// Which positions a query sees. Layers of one span share a cache group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Span {
    /// All up to its own.
    Full,
    /// Its own and the `w - 1` before it.
    Window(u32),
}

/// How the query, key and value projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvTensors {
    /// `attn_q`, `attn_k`, `attn_v`.
    Separate,
    /// `attn_qkv`: rows of q, then k, then v.
    Fused,
}

/// Normalisation of queries and keys before rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorms {
    /// None.
    None,
    /// RMSNorm of each head, one weight for all heads.
    PerHead,
}

/// What tells positions apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Nothing but the causal mask.
    None,
    /// Rotary embedding.
    Rotary(RopeConfig),
}

/// Multi-head attention with shared key/value heads.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// What a query sees.
    pub span: Span,
    /// Query heads; a multiple of `n_kv_heads`.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Elements of one head's query and key.
    pub k_dim: usize,
    /// Elements of one head's value.
    pub v_dim: usize,
    /// How the projections are stored.
    pub qkv: QkvTensors,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Normalisation of q and k.
    pub qk_norms: QkNorms,
    /// Position encoding.
    pub positions: Positions,
    /// Multiplies the scores.
    pub scale: f32,
    /// `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// How gate and up projections are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateUpTensors {
    /// `ffn_gate` and `ffn_up`.
    Separate,
    /// `ffn_up` holds the rows of gate, then up (Phi-3).
    Fused,
}

/// A layer's feed-forward network.
#[derive(Debug, Clone, PartialEq)]
pub enum FfnConfig {
    /// One gated network.
    Dense {
        /// Hidden width.
        n_ff: usize,
        /// The gate's nonlinearity.
        activation: Activation,
        /// How gate and up are stored.
        gate_up: GateUpTensors,
        /// Whether gate, up and down have biases.
        bias: bool,
    },
    /// A router and several gated networks.
    Moe {
        /// Hidden width of each expert.
        n_ff: usize,
        /// Experts in all.
        n_experts: usize,
        /// Experts a token uses.
        n_used: usize,
        /// Whether the chosen probabilities are scaled to add up to 1.
        renormalise: bool,
        /// The gate's nonlinearity.
        activation: Activation,
    },
}

/// Which hidden states, behind the final norm, make a text's embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The last token's, the only one that has seen the whole text.
    Last,
    /// The mean over all tokens.
    Mean,
    /// The first token's (`cls`).
    First,
}

/// Which matrix projects to the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputWeight {
    /// The token embeddings.
    Tied,
    /// `output.weight`.
    Separate,
}

/// Final norm and vocabulary projection.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputConfig {
    /// Epsilon of the final norm.
    pub norm_eps: f32,
    /// The projection.
    pub weight: OutputWeight,
    /// Multiplies the logits; 1 for most.
    pub scale: f32,
    /// `cap * tanh(logit / cap)`.
    pub softcap: Option<f32>,
}

/// A rotary embedding before the context is known.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// How elements pair up.
    pub pairs: RopePairs,
    /// Leading elements of a head that rotate; even.
    pub n_dims: usize,
    /// Pair `i` turns by `base^(-2i / n_dims)` radians a position before scaling.
    pub base: f32,
    /// Scaling by rule.
    pub scaling: RopeScaling,
    /// Scaling by table.
    pub factors: RopeFactors,
    /// Multiplies cosine and sine, besides what YaRN adds; 1 for most.
    pub magnitude: f32,
}

/// Context extension by a rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// All angles divided by `factor`; 1 is no scaling (Chen et al. 2023).
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Slow pairs divided by `factor`, fast pairs kept, a ramp between (Peng et al. 2023).
    Yarn {
        /// The divisor.
        factor: f32,
        /// Context before the extension.
        original_context: u32,
        /// Pairs with more turns than this in the original context are kept.
        beta_fast: f32,
        /// Pairs with fewer are divided.
        beta_slow: f32,
        /// DeepSeek's `mscale_all_dim`; 0 where there is none.
        log_multiplier: f32,
    },
}

/// Divisors of each pair's angle, stored in the file.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeFactors {
    /// None.
    None,
    /// One table (Llama 3). `[n_dims / 2]`
    Fixed(Arc<[f32]>),
    /// LongRoPE: `short` up to the original context, `long` when loaded for more (Ding et al. 2024).
    ByContext {
        /// Context before the extension.
        original_context: u32,
        /// `[n_dims / 2]`
        short: Arc<[f32]>,
        /// `[n_dims / 2]`
        long: Arc<[f32]>,
    },
}

impl ModelConfig {
    /// The spans its layers use, in order of first use: one cache group each.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for layer in &self.layers {
            if !spans.contains(&layer.attention.span) {
                spans.push(layer.attention.span);
            }
        }
        spans
    }
}

impl AttentionConfig {
    /// Elements of a row of queries.
    pub fn q_cols(&self) -> usize {
        self.n_heads * self.k_dim
    }

    /// Elements of a row of keys.
    pub fn k_cols(&self) -> usize {
        self.n_kv_heads * self.k_dim
    }

    /// Elements of a row of values.
    pub fn v_cols(&self) -> usize {
        self.n_kv_heads * self.v_dim
    }

    /// Elements of a row of attention results.
    pub fn out_cols(&self) -> usize {
        self.n_heads * self.v_dim
    }
}
