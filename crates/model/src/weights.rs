//! A model's weights: exactly the tensors its configuration asks for, checked
//! and shared with the mapped file.

use std::collections::HashSet;

use backend::{Weight, WeightId};
use gguf::format::Support;
use gguf::{Format, ModelFile, Tensor};

use crate::config::{
    AttentionConfig, FfnConfig, GateUpTensors, LayerConfig, ModelConfig, Norms, OutputWeight, QkNorms,
    QkvTensors,
};
use crate::{Error, Result};

/// Where the forward pass finds each weight.
#[derive(Debug)]
pub(crate) struct WeightMap {
    pub token_embd: WeightId,
    pub layers: Vec<LayerWeights>,
    pub output_norm: WeightId,
    pub output: WeightId,
}

/// A linear map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linear {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
}

/// One layer's weights.
#[derive(Debug)]
pub(crate) struct LayerWeights {
    pub attn_norm: WeightId,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub qk_norm: Option<QkNormWeights>,
    pub attn_output: Linear,
    pub attn_post_norm: Option<WeightId>,
    pub ffn_norm: WeightId,
    pub ffn: FfnWeights,
    pub ffn_post_norm: Option<WeightId>,
}

/// Norms of q and k heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct QkNormWeights {
    pub q: WeightId,
    pub k: WeightId,
}

/// A feed-forward network's weights.
#[derive(Debug)]
pub(crate) enum FfnWeights {
    Dense { gate: Linear, up: Linear, down: Linear },
    Moe { router: WeightId, gate: WeightId, up: WeightId, down: WeightId },
}

/// Takes every tensor of `file` that `config` asks for.
///
/// # Errors
/// [`Error::Tensor`] for one that is missing, has another shape, a format that
/// cannot be run, or that nothing would read.
pub(crate) fn take(file: &ModelFile, config: &ModelConfig) -> Result<(WeightMap, Vec<Weight>)> {
    let mut taker = Taker { file, taken: config.config_tensors.iter().copied().collect(), weights: vec![] };
    let token_embd = taker.matrix("token_embd.weight", config.n_vocab, config.n_embd)?;
    let layers = config.layers.iter().enumerate();
    let layers = layers.map(|(i, layer)| taker.layer(i, layer, config.n_embd)).collect::<Result<_>>()?;
    let output_norm = taker.vector("output_norm.weight", config.n_embd)?;
    let output = match config.output.weight {
        OutputWeight::Tied => token_embd,
        OutputWeight::Separate => taker.matrix("output.weight", config.n_vocab, config.n_embd)?,
    };
    taker.nothing_left()?;
    Ok((WeightMap { token_embd, layers, output_norm, output }, taker.weights))
}

struct Taker<'a> {
    file: &'a ModelFile,
    taken: HashSet<&'a str>,
    weights: Vec<Weight>,
}

impl<'a> Taker<'a> {
    fn layer(&mut self, i: usize, layer: &LayerConfig, n_embd: usize) -> Result<LayerWeights> {
        let attention = &layer.attention;
        let name = |suffix: &str| format!("blk.{i}.{suffix}");
        let [q, k, v] = self.qkv(i, attention, n_embd)?;
        let qk_norm = match attention.qk_norms {
            QkNorms::None => None,
            QkNorms::PerHead => Some(QkNormWeights {
                q: self.vector(&name("attn_q_norm.weight"), attention.k_dim)?,
                k: self.vector(&name("attn_k_norm.weight"), attention.k_dim)?,
            }),
        };
        let [attn_post_norm, ffn_post_norm] = match (layer.norms, &layer.ffn) {
            (Norms::PreAndPost, FfnConfig::Dense { .. }) => [
                Some(self.vector(&name("post_attention_norm.weight"), n_embd)?),
                Some(self.vector(&name("post_ffw_norm.weight"), n_embd)?),
            ],
            // No op normalises after experts; such a model's norms stay unread and are reported.
            (Norms::Pre, _) | (Norms::PreAndPost, FfnConfig::Moe { .. }) => [None, None],
        };
        Ok(LayerWeights {
            attn_norm: self.vector(&name("attn_norm.weight"), n_embd)?,
            q,
            k,
            v,
            qk_norm,
            attn_output: self.linear(
                &name("attn_output"),
                n_embd,
                attention.out_cols(),
                attention.output_bias,
            )?,
            attn_post_norm,
            ffn_norm: self.vector(&name("ffn_norm.weight"), n_embd)?,
            ffn: self.ffn(i, &layer.ffn, n_embd)?,
            ffn_post_norm,
        })
    }

    fn qkv(&mut self, i: usize, attention: &AttentionConfig, n_embd: usize) -> Result<[Linear; 3]> {
        let rows = [attention.q_cols(), attention.k_cols(), attention.v_cols()];
        match attention.qkv {
            QkvTensors::Separate => {
                let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(|name| format!("blk.{i}.{name}"));
                Ok([
                    self.linear(&q, rows[0], n_embd, attention.qkv_bias)?,
                    self.linear(&k, rows[1], n_embd, attention.qkv_bias)?,
                    self.linear(&v, rows[2], n_embd, attention.qkv_bias)?,
                ])
            }
            QkvTensors::Fused => self.fused(&format!("blk.{i}.attn_qkv"), rows, n_embd, attention.qkv_bias),
        }
    }

    fn ffn(&mut self, i: usize, ffn: &FfnConfig, n_embd: usize) -> Result<FfnWeights> {
        let name = |suffix: &str| format!("blk.{i}.{suffix}");
        match *ffn {
            FfnConfig::Dense { n_ff, gate_up, bias, .. } => {
                let [gate, up] = match gate_up {
                    GateUpTensors::Separate => [
                        self.linear(&name("ffn_gate"), n_ff, n_embd, bias)?,
                        self.linear(&name("ffn_up"), n_ff, n_embd, bias)?,
                    ],
                    GateUpTensors::Fused => self.fused(&name("ffn_up"), [n_ff, n_ff], n_embd, bias)?,
                };
                let down = self.linear(&name("ffn_down"), n_embd, n_ff, bias)?;
                Ok(FfnWeights::Dense { gate, up, down })
            }
            FfnConfig::Moe { n_ff, n_experts, .. } => Ok(FfnWeights::Moe {
                router: self.matrix(&name("ffn_gate_inp.weight"), n_experts, n_embd)?,
                gate: self.stack(&name("ffn_gate_exps.weight"), n_experts, n_ff, n_embd)?,
                up: self.stack(&name("ffn_up_exps.weight"), n_experts, n_ff, n_embd)?,
                down: self.stack(&name("ffn_down_exps.weight"), n_experts, n_embd, n_ff)?,
            }),
        }
    }

    /// A map and, where the model has it, its bias.
    fn linear(&mut self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Linear> {
        let weight = self.matrix(&format!("{name}.weight"), rows, cols)?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), rows)).transpose()?;
        Ok(Linear { weight, bias })
    }

    /// Several maps whose rows follow each other in one tensor; views, not copies.
    fn fused<const N: usize>(
        &mut self,
        name: &str,
        rows: [usize; N],
        cols: usize,
        bias: bool,
    ) -> Result<[Linear; N]> {
        let all = rows.iter().sum();
        let weight = self.check(&format!("{name}.weight"), &[cols, all])?;
        let weight = as_weight(weight, all, cols)?;
        let bias = bias.then(|| self.values(&format!("{name}.bias"), all)).transpose()?;
        let mut start = 0;
        Ok(rows.map(|rows| {
            let part = weight.row_range(start, rows).expect("the parts add up to the whole");
            let part = Linear {
                weight: self.push(part),
                bias: bias
                    .as_ref()
                    .map(|all| self.push(Weight::vector(format!("{name}.bias"), &all[start..start + rows]))),
            };
            start += rows;
            part
        }))
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<WeightId> {
        let tensor = self.check(name, &[cols, rows])?;
        as_weight(tensor, rows, cols).map(|weight| self.push(weight))
    }

    /// Matrices of several experts, one after the other.
    fn stack(&mut self, name: &str, n: usize, rows: usize, cols: usize) -> Result<WeightId> {
        let tensor = self.check(name, &[cols, rows, n])?;
        as_weight(tensor, n * rows, cols).map(|weight| self.push(weight))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<WeightId> {
        let tensor = self.check(name, &[len])?;
        if tensor.format == Format::F32 {
            return as_weight(tensor, 1, len).map(|weight| self.push(weight));
        }
        let values = self.values(name, len)?;
        Ok(self.push(Weight::vector(name, &values)))
    }

    /// A small tensor's values.
    fn values(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        let tensor = self.check(name, &[len])?;
        let mut values = vec![0.0; len];
        tensor.format.dequantize(&tensor.data, &mut values)?;
        Ok(values)
    }

    /// The tensor, if it has this shape (innermost first) and can be run.
    fn check(&mut self, name: &str, shape: &[usize]) -> Result<&'a Tensor> {
        let wrong = |problem| Error::Tensor { name: name.to_owned(), problem };
        let tensor = self.file.tensor(name).ok_or_else(|| wrong("is missing".to_owned()))?;
        if !tensor.shape.iter().copied().eq(shape.iter().map(|&dim| dim as u64)) {
            return Err(wrong(format!("has shape {:?}, but the metadata ask for {shape:?}", tensor.shape)));
        }
        if tensor.format.support() == Support::Listed {
            return Err(wrong(format!(
                "is {}, a format this build cannot run; quantise the model to another",
                tensor.format
            )));
        }
        self.taken.insert(&tensor.name);
        Ok(tensor)
    }

    fn push(&mut self, weight: Weight) -> WeightId {
        let id = u32::try_from(self.weights.len()).expect("files have far fewer than 2^32 tensors");
        self.weights.push(weight);
        WeightId(id)
    }

    /// Every tensor must have been read, but for rotation tables that old
    /// converters wrote and that follow from the metadata.
    fn nothing_left(&self) -> Result<()> {
        let unread = |tensor: &&Tensor| {
            !self.taken.contains(tensor.name.as_str()) && !tensor.name.ends_with(".attn_rot_embd")
        };
        match self.file.tensors.iter().find(unread) {
            None => Ok(()),
            Some(tensor) => Err(Error::Tensor {
                name: tensor.name.clone(),
                problem: "is not part of this architecture; ignoring it would change the model".into(),
            }),
        }
    }
}

fn as_weight(tensor: &Tensor, rows: usize, cols: usize) -> Result<Weight> {
    Ok(Weight::new(&tensor.name, tensor.format, rows, cols, tensor.data.clone())?)
}
