//! Which of our architectures a Hugging Face class is, and what its tensors are called in GGUF.

/// A family of model classes with one layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Mixtral,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma2,
    Gemma3,
    Phi3,
    Granite,
}

/// How a tensor's values become the GGUF tensor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// They are the same.
    None,
    /// Rows of each head reordered, halves to adjacent pairs: queries.
    PairQ,
    /// The same for keys.
    PairK,
    /// One added to each: norms stored as differences from it.
    PlusOne,
}

/// A tensor's place in GGUF.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A tensor of its own.
    Whole(String, Change),
    /// Expert `expert` of a stack.
    Expert { stack: String, expert: usize },
    /// Not needed: it follows from the configuration.
    Surplus,
}

impl Family {
    pub fn of(class: &str) -> Option<Self> {
        Some(match class {
            "LlamaForCausalLM" => Self::Llama,
            "MistralForCausalLM" => Self::Mistral,
            "MixtralForCausalLM" => Self::Mixtral,
            "Qwen2ForCausalLM" => Self::Qwen2,
            "Qwen3ForCausalLM" => Self::Qwen3,
            "Qwen3MoeForCausalLM" => Self::Qwen3Moe,
            "Gemma2ForCausalLM" => Self::Gemma2,
            "Gemma3ForCausalLM" => Self::Gemma3,
            "Phi3ForCausalLM" => Self::Phi3,
            "GraniteForCausalLM" => Self::Granite,
            _ => return None,
        })
    }

    /// `general.architecture`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama | Self::Mistral | Self::Mixtral => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
            Self::Granite => "granite",
        }
    }

    pub fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    pub fn has_experts(self) -> bool {
        matches!(self, Self::Mixtral | Self::Qwen3Moe)
    }

    /// Whether `sliding_window` is in force. Qwen's says nothing without
    /// `use_sliding_window`; Phi-3's is read as llama.cpp does, as none.
    pub fn has_window(self) -> bool {
        self.is_gemma() || matches!(self, Self::Mistral | Self::Mixtral)
    }

    /// GGUF's Llama files pair neighbouring elements of a head where Hugging Face pairs its halves.
    fn pairs_neighbours(self) -> bool {
        matches!(self.architecture(), "llama" | "granite")
    }

    /// Where the tensor `name` goes; `None` if it belongs to no model of this family.
    pub fn target(self, name: &str, tied: bool) -> Option<Target> {
        let whole = |name: &str, change| Some(Target::Whole(name.to_owned(), change));
        let norm = if self.is_gemma() { Change::PlusOne } else { Change::None };
        match name {
            "model.embed_tokens.weight" => return whole("token_embd.weight", Change::None),
            "model.norm.weight" => return whole("output_norm.weight", norm),
            "lm_head.weight" if tied => return Some(Target::Surplus),
            "lm_head.weight" => return whole("output.weight", Change::None),
            _ if name.ends_with(".rotary_emb.inv_freq") => return Some(Target::Surplus),
            _ => {}
        }
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        if let Some((part, expert)) = self.expert(rest) {
            return Some(Target::Expert { stack: format!("blk.{layer}.{part}.weight"), expert });
        }
        let (part, kind) = rest.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?;
        let (part, change) = self.part(part, norm)?;
        Some(Target::Whole(format!("blk.{layer}.{part}.{kind}"), change))
    }

    fn part(self, part: &str, norm: Change) -> Option<(&'static str, Change)> {
        let [q, k] = match self.pairs_neighbours() {
            true => [Change::PairQ, Change::PairK],
            false => [Change::None; 2],
        };
        Some(match part {
            "input_layernorm" => ("attn_norm", norm),
            "self_attn.q_proj" => ("attn_q", q),
            "self_attn.k_proj" => ("attn_k", k),
            "self_attn.v_proj" => ("attn_v", Change::None),
            "self_attn.qkv_proj" => ("attn_qkv", Change::None),
            "self_attn.o_proj" => ("attn_output", Change::None),
            "self_attn.q_norm" => ("attn_q_norm", norm),
            "self_attn.k_norm" => ("attn_k_norm", norm),
            "post_attention_layernorm" if self.is_gemma() => ("post_attention_norm", norm),
            "post_attention_layernorm" => ("ffn_norm", norm),
            "pre_feedforward_layernorm" if self.is_gemma() => ("ffn_norm", norm),
            "post_feedforward_layernorm" if self.is_gemma() => ("post_ffw_norm", norm),
            "mlp.gate_proj" => ("ffn_gate", Change::None),
            "mlp.up_proj" | "mlp.gate_up_proj" => ("ffn_up", Change::None),
            "mlp.down_proj" => ("ffn_down", Change::None),
            "block_sparse_moe.gate" | "mlp.gate" if self.has_experts() => ("ffn_gate_inp", Change::None),
            _ => return None,
        })
    }

    fn expert(self, rest: &str) -> Option<(&'static str, usize)> {
        let rest = rest.strip_prefix("block_sparse_moe.experts.").or(rest.strip_prefix("mlp.experts."))?;
        let (expert, part) = rest.split_once('.')?;
        let stack = match part {
            "w1.weight" | "gate_proj.weight" => "ffn_gate_exps",
            "w3.weight" | "up_proj.weight" => "ffn_up_exps",
            "w2.weight" | "down_proj.weight" => "ffn_down_exps",
            _ => return None,
        };
        Some((stack, expert.parse().ok().filter(|_| self.has_experts())?))
    }
}
