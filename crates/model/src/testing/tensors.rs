//! The tensors of a model and how their values are drawn.

use gguf::Format;
use gguf::tensor::TensorInfo;

use super::random::Random;
use super::variants::{Biases, Variant};

/// A tensor to be filled.
pub(super) struct Tensor {
    pub info: TensorInfo,
    fill: Fill,
}

#[derive(Clone, Copy)]
enum Fill {
    /// Uniform around zero; a row's variance is `gain² / cols`, so that a map keeps its input's size.
    Matrix { gain: f32 },
    /// Around one: norms.
    Norm,
    /// Small: biases.
    Bias,
    /// From 1 to 3: rotary factors.
    Factors,
}

impl Tensor {
    /// The range of a matrix's values, which are uniform around zero; `None` for vectors.
    pub fn matrix_range(&self) -> Option<f32> {
        match self.fill {
            Fill::Matrix { gain } => Some(gain * (3.0 / self.info.shape[0] as f32).sqrt()),
            Fill::Norm | Fill::Bias | Fill::Factors => None,
        }
    }

    /// Its values in order.
    pub fn values<'a>(&'a self, random: &'a mut Random) -> impl Iterator<Item = f32> + 'a {
        let n: u64 = self.info.shape.iter().product();
        let range = self.matrix_range().unwrap_or(1.0);
        (0..n).map(move |_| {
            let x = random.signed();
            match self.fill {
                Fill::Matrix { .. } => x * range,
                Fill::Norm => 1.0 + 0.3 * x,
                Fill::Bias => 0.3 * x,
                Fill::Factors => 2.0 + x,
            }
        })
    }
}

struct List(Vec<Tensor>);

impl List {
    fn push(&mut self, name: String, shape: &[usize], fill: Fill) {
        let shape = shape.iter().map(|&dim| dim as u64).collect();
        self.0.push(Tensor { info: TensorInfo { name, shape, format: Format::F32 }, fill });
    }

    fn linear(&mut self, name: &str, cols: usize, rows: usize, bias: bool) {
        self.push(format!("{name}.weight"), &[cols, rows], Fill::Matrix { gain: 1.0 });
        if bias {
            self.push(format!("{name}.bias"), &[rows], Fill::Bias);
        }
    }

    fn norm(&mut self, name: &str, len: usize) {
        self.push(format!("{name}.weight"), &[len], Fill::Norm);
    }
}

/// Every tensor of the model.
pub(super) fn list(variant: &Variant) -> Vec<Tensor> {
    let mut list = List(vec![]);
    // Embeddings of size one whatever the width; tied ones are the output too.
    let gain = if variant.tied { 1.0 } else { (variant.n_embd as f32).sqrt() };
    list.push("token_embd.weight".into(), &[variant.n_embd, variant.n_vocab], Fill::Matrix { gain });
    list.norm("output_norm", variant.n_embd);
    if !variant.tied {
        list.push("output.weight".into(), &[variant.n_embd, variant.n_vocab], Fill::Matrix { gain: 1.0 });
    }
    for name in variant.factors {
        list.push((*name).to_owned(), &[variant.rope_dims / 2], Fill::Factors);
    }
    for layer in 0..variant.n_layers {
        attention(&mut list, variant, layer);
        ffn(&mut list, variant, layer);
    }
    list.0
}

fn attention(list: &mut List, variant: &Variant, layer: usize) {
    let (n_embd, dim) = (variant.n_embd, variant.head_dim);
    let (q, kv) = (variant.n_heads * dim, variant.n_kv_heads * dim);
    let bias = variant.biases != Biases::None;
    let name = |suffix: &str| format!("blk.{layer}.{suffix}");
    list.norm(&name("attn_norm"), n_embd);
    if variant.fused {
        list.linear(&name("attn_qkv"), n_embd, q + 2 * kv, bias);
    } else {
        list.linear(&name("attn_q"), n_embd, q, bias);
        list.linear(&name("attn_k"), n_embd, kv, bias);
        list.linear(&name("attn_v"), n_embd, kv, bias);
    }
    list.linear(&name("attn_output"), q, n_embd, variant.biases == Biases::All);
    if variant.qk_norm {
        list.norm(&name("attn_q_norm"), dim);
        list.norm(&name("attn_k_norm"), dim);
    }
    if variant.post_norms {
        list.norm(&name("post_attention_norm"), n_embd);
    }
}

fn ffn(list: &mut List, variant: &Variant, layer: usize) {
    let (n_embd, n_ff) = (variant.n_embd, variant.n_ff);
    let bias = variant.biases == Biases::All;
    let name = |suffix: &str| format!("blk.{layer}.{suffix}");
    let matrix = Fill::Matrix { gain: 1.0 };
    list.norm(&name("ffn_norm"), n_embd);
    match &variant.experts {
        None => {
            if variant.fused {
                list.linear(&name("ffn_up"), n_embd, 2 * n_ff, bias);
            } else {
                list.linear(&name("ffn_gate"), n_embd, n_ff, bias);
                list.linear(&name("ffn_up"), n_embd, n_ff, bias);
            }
            list.linear(&name("ffn_down"), n_ff, n_embd, bias);
        }
        Some(experts) => {
            let (n, n_ff) = (experts.n, experts.n_ff);
            list.push(name("ffn_gate_inp.weight"), &[n_embd, n], matrix);
            list.push(name("ffn_gate_exps.weight"), &[n_embd, n_ff, n], matrix);
            list.push(name("ffn_up_exps.weight"), &[n_embd, n_ff, n], matrix);
            list.push(name("ffn_down_exps.weight"), &[n_ff, n_embd, n], matrix);
        }
    }
    if variant.post_norms {
        list.norm(&name("post_ffw_norm"), n_embd);
    }
}
