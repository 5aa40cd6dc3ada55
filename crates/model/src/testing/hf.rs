//! The tiny models in Hugging Face layout, so that transformers runs them too:
//! `config.json` and safetensors with that library's names, order of rotated
//! rows and norms.

use gguf::{ModelFile, Tensor};
use serde_json::{Map, Value, json};

use super::tiny;
use super::variants::{Key, VARIANTS, Variant};

/// Models without a Hugging Face form here: [`crate::hf::open`] refuses their class.
const GGUF_ONLY: [&str; 1] = ["smollm3"];

/// A tiny model's `config.json` and `model.safetensors`; `None` for an unknown
/// name and for architectures that load from GGUF only. Rotary tables that GGUF files store are here what their models'
/// configurations say, so those models' logits differ from their GGUF twins'.
pub fn tiny_hf(name: &str, seed: u64) -> Option<(String, Vec<u8>)> {
    let variant = VARIANTS.iter().find(|variant| variant.name == name)?;
    if GGUF_ONLY.contains(&variant.architecture) {
        return None;
    }
    let file = tiny(name, seed)?;
    Some((config(variant, &file).to_string(), safetensors(variant, &file)))
}

fn class(variant: &Variant) -> (&'static str, &'static str) {
    match (variant.architecture, variant.name) {
        (_, "llama-window") => ("MistralForCausalLM", "mistral"),
        (_, "mixtral") => ("MixtralForCausalLM", "mixtral"),
        ("qwen2", _) => ("Qwen2ForCausalLM", "qwen2"),
        ("qwen3", _) => ("Qwen3ForCausalLM", "qwen3"),
        ("qwen3moe", _) => ("Qwen3MoeForCausalLM", "qwen3_moe"),
        ("gemma2", _) => ("Gemma2ForCausalLM", "gemma2"),
        ("gemma3", _) => ("Gemma3ForCausalLM", "gemma3_text"),
        ("phi3", _) => ("Phi3ForCausalLM", "phi3"),
        ("granite", _) => ("GraniteForCausalLM", "granite"),
        _ => ("LlamaForCausalLM", "llama"),
    }
}

fn config(variant: &Variant, file: &ModelFile) -> Value {
    let (class, model_type) = class(variant);
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "num_hidden_layers": variant.n_layers,
        "max_position_embeddings": variant.context_length,
        "hidden_size": variant.n_embd,
        "intermediate_size": variant.n_ff,
        "num_attention_heads": variant.n_heads,
        "num_key_value_heads": variant.n_kv_heads,
        "head_dim": variant.head_dim,
        "vocab_size": super::vocabulary::N_VOCAB,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": variant.tied,
        "attention_bias": variant.biases == super::variants::Biases::All,
        "mlp_bias": variant.biases == super::variants::Biases::All,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    });
    let map = config.as_object_mut().expect("it is an object");
    if variant.post_norms {
        map.insert("hidden_activation".into(), "gelu_pytorch_tanh".into());
        map.insert("query_pre_attn_scalar".into(), variant.head_dim.into());
    }
    if let Some(experts) = &variant.experts {
        for key in ["num_local_experts", "num_experts"] {
            map.insert(key.into(), experts.n.into());
        }
        map.insert("num_experts_per_tok".into(), experts.used.into());
        map.insert("norm_topk_prob".into(), true.into());
        if experts.n_ff != variant.n_ff {
            map.insert("moe_intermediate_size".into(), experts.n_ff.into());
        }
    }
    rotary(variant, file, map);
    scalars(variant, map);
    config
}

fn number(variant: &Variant, suffix: &str) -> Option<Value> {
    let (_, key) = variant.keys.iter().find(|(name, _)| *name == suffix)?;
    match *key {
        Key::U32(x) => Some(x.into()),
        Key::F32(x) => Some(f64::from(x).into()),
        Key::Str(x) => Some(x.into()),
        Key::Bools(list) => {
            let name = |&windowed: &bool| if windowed { "sliding_attention" } else { "full_attention" };
            Some(list.iter().map(name).collect::<Vec<_>>().into())
        }
    }
}

fn scalars(variant: &Variant, map: &mut Map<String, Value>) {
    for (suffix, key) in [
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("attention.sliding_window", "sliding_window"),
        ("attention.sliding_window_pattern", "layer_types"),
        ("logit_scale", "logits_scaling"),
        ("residual_scale", "residual_multiplier"),
        ("embedding_scale", "embedding_multiplier"),
        ("attention.scale", "attention_multiplier"),
    ] {
        if let Some(value) = number(variant, suffix) {
            map.insert(key.into(), value);
        }
    }
    if variant.architecture == "phi3" {
        // llama.cpp and we read Phi-3's window as none.
        map.insert("sliding_window".into(), Value::Null);
    }
}

fn rotary(variant: &Variant, file: &ModelFile, map: &mut Map<String, Value>) {
    map.insert("rope_theta".into(), number(variant, "rope.freq_base").unwrap_or_else(|| 10_000.0.into()));
    let original = number(variant, "rope.scaling.original_context_length");
    let scaling = match (variant.architecture, variant.factors) {
        ("phi3", _) => {
            let list = |name: &str| file.tensor(name).map(values).expect("phi3 variants have both");
            map.insert("original_max_position_embeddings".into(), original.expect("they have it"));
            map.insert(
                "partial_rotary_factor".into(),
                (variant.rope_dims as f64 / variant.head_dim as f64).into(),
            );
            json!({
                "rope_type": "longrope",
                "long_factor": list("rope_factors_long.weight"),
                "short_factor": list("rope_factors_short.weight"),
            })
        }
        (_, [_]) => json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }),
        _ => match number(variant, "rope.scaling.type") {
            None => return,
            Some(kind) => json!({
                "rope_type": kind,
                "factor": number(variant, "rope.scaling.factor"),
                "original_max_position_embeddings": original,
            }),
        },
    };
    let scaling = scaling.as_object().expect("it is an object").clone();
    let present = scaling.into_iter().filter(|(_, value)| !value.is_null());
    map.insert("rope_scaling".into(), Value::Object(present.collect()));
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// The reverse of what loading does, written apart from it.
fn safetensors(variant: &Variant, file: &ModelFile) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = vec![];
    let mut push = |name: String, shape: &[u64], values: &[f32]| {
        let start = data.len();
        data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        let shape: Vec<u64> = shape.iter().rev().copied().collect();
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    };
    for tensor in file.tensors.iter().filter(|tensor| !tensor.name.starts_with("rope_")) {
        let mut values = values(tensor);
        if variant.post_norms && tensor.name.ends_with("norm.weight") {
            values.iter_mut().for_each(|x| *x -= 1.0);
        }
        if matches!(variant.architecture, "llama" | "granite") && is_rotated(&tensor.name) {
            values = halves(&values, tensor, variant.head_dim);
        }
        let name = hf_name(variant, &tensor.name);
        match (tensor.shape.as_slice(), name.split_once("{expert}")) {
            ([cols, rows, experts], Some((before, after))) => {
                for (expert, values) in values.chunks_exact((cols * rows) as usize).enumerate() {
                    push(format!("{before}{expert}{after}"), &[*cols, *rows], values);
                }
                assert_eq!(*experts as usize, variant.experts.as_ref().expect("it has experts").n);
            }
            (shape, _) => push(name, shape, &values),
        }
    }
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text, &data].concat()
}

fn is_rotated(name: &str) -> bool {
    name.contains(".attn_q.") || name.contains(".attn_k.")
}

/// Rows `2i` and `2i + 1` of each head to `i` and `i + dim / 2`.
fn halves(values: &[f32], tensor: &Tensor, dim: usize) -> Vec<f32> {
    let cols = if tensor.shape.len() == 1 { 1 } else { tensor.row_len() };
    let rows: Vec<&[f32]> = values.chunks_exact(cols).collect();
    let heads = rows.chunks_exact(dim);
    let reordered = heads.flat_map(|head| head.iter().step_by(2).chain(head.iter().skip(1).step_by(2)));
    reordered.copied().flatten().copied().collect()
}

fn hf_name(variant: &Variant, name: &str) -> String {
    let gemma = variant.post_norms;
    let name = match name {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        name => name.strip_prefix("blk.").expect("all others are in a layer"),
    };
    let [layer, part, kind] = name.splitn(3, '.').collect::<Vec<_>>()[..] else {
        unreachable!("names are blk.N.part.kind")
    };
    let mixtral = variant.name == "mixtral";
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "post_attention_norm" => "post_attention_layernorm",
        "ffn_norm" if gemma => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "ffn_up" if variant.fused => "mlp.gate_up_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_gate_inp" if mixtral => "block_sparse_moe.gate",
        "ffn_gate_inp" => "mlp.gate",
        "ffn_gate_exps" if mixtral => "block_sparse_moe.experts.{expert}.w1",
        "ffn_up_exps" if mixtral => "block_sparse_moe.experts.{expert}.w3",
        "ffn_down_exps" if mixtral => "block_sparse_moe.experts.{expert}.w2",
        "ffn_gate_exps" => "mlp.experts.{expert}.gate_proj",
        "ffn_up_exps" => "mlp.experts.{expert}.up_proj",
        "ffn_down_exps" => "mlp.experts.{expert}.down_proj",
        other => unreachable!("no variant has {other}"),
    };
    format!("model.layers.{layer}.{part}.{kind}")
}
