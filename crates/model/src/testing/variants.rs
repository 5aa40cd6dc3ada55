//! What each tiny model is. Sizes are small but general: several heads share a
//! key/value head, windows are shorter than the tests' 40 tokens, contexts
//! cross the original context of the scaled embeddings.

use gguf::{Array, Value};

use super::vocabulary::N_VOCAB;

/// One model.
#[derive(Clone, Copy)]
pub(super) struct Variant {
    pub name: &'static str,
    pub architecture: &'static str,
    pub n_layers: usize,
    pub context_length: usize,
    /// At least [`N_VOCAB`].
    pub n_vocab: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub rope_dims: usize,
    /// Whether the embeddings are the output projection.
    pub tied: bool,
    pub biases: Biases,
    pub qk_norm: bool,
    pub post_norms: bool,
    /// Whether q, k, v are one tensor, and gate and up another.
    pub fused: bool,
    pub experts: Option<Experts>,
    /// Rotary factor tensors.
    pub factors: &'static [&'static str],
    /// Further keys under the architecture's prefix.
    pub keys: &'static [(&'static str, Key)],
}

/// Which linear maps have biases.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Biases {
    None,
    Qkv,
    All,
}

#[derive(Clone, Copy)]
pub(super) struct Experts {
    pub n: usize,
    pub used: usize,
    pub n_ff: usize,
}

/// A metadata value that can stand in a constant.
#[derive(Clone, Copy)]
pub(super) enum Key {
    U32(u32),
    F32(f32),
    Str(&'static str),
    Bools(&'static [bool]),
}

impl Key {
    pub fn to_value(self) -> Value {
        match self {
            Self::U32(x) => x.into(),
            Self::F32(x) => x.into(),
            Self::Str(x) => x.into(),
            Self::Bools(x) => Array::Bool(x.to_vec()).into(),
        }
    }
}

pub(super) const PLAIN: Variant = Variant {
    name: "llama",
    architecture: "llama",
    n_layers: 2,
    context_length: 128,
    n_vocab: N_VOCAB,
    n_embd: 64,
    n_ff: 96,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 16,
    rope_dims: 16,
    tied: false,
    biases: Biases::None,
    qk_norm: false,
    post_norms: false,
    fused: false,
    experts: None,
    factors: &[],
    keys: &[],
};

const EXPERTS: Experts = Experts { n: 4, used: 2, n_ff: 96 };

const GEMMA: Variant = Variant { tied: true, post_norms: true, ..PLAIN };

const PHI3: Variant = Variant {
    architecture: "phi3",
    fused: true,
    factors: &["rope_factors_short.weight", "rope_factors_long.weight"],
    ..PLAIN
};

pub(super) const VARIANTS: &[Variant] = &[
    PLAIN,
    Variant { name: "llama-tied-biases", tied: true, biases: Biases::All, ..PLAIN },
    Variant { name: "llama-wide-heads", head_dim: 32, rope_dims: 32, ..PLAIN },
    Variant {
        name: "llama-linear",
        keys: &[
            ("rope.freq_base", Key::F32(500_000.0)),
            ("rope.scaling.type", Key::Str("linear")),
            ("rope.scaling.factor", Key::F32(4.0)),
        ],
        ..PLAIN
    },
    Variant {
        name: "llama-yarn",
        head_dim: 32,
        rope_dims: 32,
        keys: &[
            ("rope.scaling.type", Key::Str("yarn")),
            ("rope.scaling.factor", Key::F32(4.0)),
            ("rope.scaling.original_context_length", Key::U32(32)),
        ],
        ..PLAIN
    },
    Variant { name: "llama-factors", factors: &["rope_freqs.weight"], ..PLAIN },
    // One layer: what a position sees is then its window and nothing else.
    Variant {
        name: "llama-window",
        n_layers: 1,
        keys: &[("attention.sliding_window", Key::U32(16))],
        ..PLAIN
    },
    Variant { name: "mixtral", experts: Some(EXPERTS), ..PLAIN },
    Variant { name: "qwen2", architecture: "qwen2", biases: Biases::Qkv, ..PLAIN },
    Variant { name: "qwen2-tied", architecture: "qwen2", biases: Biases::Qkv, tied: true, ..PLAIN },
    Variant { name: "qwen3", architecture: "qwen3", head_dim: 32, rope_dims: 32, qk_norm: true, ..PLAIN },
    Variant {
        name: "qwen3moe",
        architecture: "qwen3moe",
        qk_norm: true,
        experts: Some(Experts { n_ff: 64, ..EXPERTS }),
        ..PLAIN
    },
    Variant {
        name: "gemma2",
        architecture: "gemma2",
        n_layers: 4,
        keys: &[
            ("attention.sliding_window", Key::U32(16)),
            ("attn_logit_softcapping", Key::F32(2.0)),
            ("final_logit_softcapping", Key::F32(3.0)),
        ],
        ..GEMMA
    },
    Variant {
        name: "gemma3",
        architecture: "gemma3",
        n_layers: 7,
        qk_norm: true,
        keys: &[
            ("attention.sliding_window", Key::U32(16)),
            ("rope.freq_base", Key::F32(1_000_000.0)),
            ("rope.scaling.type", Key::Str("linear")),
            ("rope.scaling.factor", Key::F32(8.0)),
        ],
        ..GEMMA
    },
    Variant {
        name: "gemma3-pattern",
        architecture: "gemma3",
        n_layers: 3,
        qk_norm: true,
        keys: &[
            ("attention.sliding_window", Key::U32(8)),
            ("attention.sliding_window_pattern", Key::Bools(&[true, false, true])),
            ("final_logit_softcapping", Key::F32(3.0)),
        ],
        ..GEMMA
    },
    Variant {
        name: "phi3-long",
        keys: &[
            ("rope.scaling.original_context_length", Key::U32(32)),
            ("rope.scaling.attn_factor", Key::F32(1.19)),
        ],
        ..PHI3
    },
    Variant {
        name: "phi3-short",
        rope_dims: 8,
        n_kv_heads: 4,
        keys: &[
            ("attention.sliding_window", Key::U32(16)),
            // More than the 256 tokens that llama.cpp rounds a small context up to.
            ("rope.scaling.original_context_length", Key::U32(512)),
        ],
        ..PHI3
    },
    Variant {
        name: "granite",
        architecture: "granite",
        tied: true,
        keys: &[
            ("logit_scale", Key::F32(4.0)),
            ("residual_scale", Key::F32(0.25)),
            ("embedding_scale", Key::F32(6.0)),
            ("attention.scale", Key::F32(0.1)),
        ],
        ..PLAIN
    },
    // The fourth layer has no positions; the fifth has them again.
    Variant { name: "smollm3", architecture: "smollm3", n_layers: 5, tied: true, ..PLAIN },
];
