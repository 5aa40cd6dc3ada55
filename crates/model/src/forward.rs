//! The forward pass: one function that writes the step of any [`ModelConfig`].

use backend::kernels::embed::Embed;
use backend::kernels::head::Head;
use backend::kernels::linear_add::LinearAdd;
use backend::kernels::moe_add::MoeAdd;
use backend::kernels::norm_linear::{NormLinear, Projection};
use backend::kernels::paged_attention::PagedAttention;
use backend::kernels::rms_norm::{Norm, RmsNorm};
use backend::kernels::rope_store::{QkNorm, RopeStore};
use backend::kernels::swiglu_linear_add::SwigluLinearAdd;
use backend::{BufferId, CacheLayerId, Rows, Step};

use crate::config::{FfnConfig, LayerConfig, ModelConfig, Positions};
use crate::weights::{FfnWeights, LayerWeights, Linear, WeightMap};

/// A step and where it leaves its results.
#[derive(Debug)]
pub(crate) struct ForwardStep {
    pub step: Step,
    /// `[outputs, n_vocab]`
    pub logits: BufferId,
    /// `[tokens, n_embd]`, where the step keeps them.
    pub hidden: Option<BufferId>,
}

/// Whether a step keeps the hidden states of its rows, behind the final norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    Dropped,
    /// Beside the logits, so that prompts to embed run in one batch with replies.
    Kept,
}

/// Writes the step of `config` for a model loaded with a context of `context`
/// tokens. Layer `i` uses cache layer `i`.
pub(crate) fn write_step(
    config: &ModelConfig,
    weights: &WeightMap,
    context: u32,
    hidden: Hidden,
) -> ForwardStep {
    let mut writer = Writer { step: Step::new(), context };
    let x = writer.step.buffer("x", Rows::Tokens, config.n_embd);
    writer.step.push(Embed { table: weights.token_embd, scale: config.embedding_scale, out: x });
    for (i, (layer, weights)) in config.layers.iter().zip(&weights.layers).enumerate() {
        let cache = CacheLayerId(u32::try_from(i).expect("layers are fewer than tensors"));
        writer.attention(layer, weights, x, cache);
        writer.ffn(layer, weights, x);
    }
    let norm = Norm { weight: weights.output_norm, eps: config.output.norm_eps };
    let hidden = (hidden == Hidden::Kept).then(|| {
        let out = writer.step.buffer("hidden", Rows::Tokens, config.n_embd);
        writer.step.push(RmsNorm { x, norm, out });
        out
    });
    let logits = writer.step.buffer("logits", Rows::Outputs, config.n_vocab);
    writer.step.push(Head {
        x,
        norm,
        weight: weights.output,
        scale: config.output.scale,
        softcap: config.output.softcap,
        out: logits,
    });
    ForwardStep { step: writer.step, logits, hidden }
}

struct Writer {
    step: Step,
    context: u32,
}

impl Writer {
    /// `x += output(attention(norm(x)))`
    fn attention(&mut self, layer: &LayerConfig, weights: &LayerWeights, x: BufferId, cache: CacheLayerId) {
        let (attention, eps) = (&layer.attention, layer.norm_eps);
        let [q, k, v] = [("q", attention.q_cols()), ("k", attention.k_cols()), ("v", attention.v_cols())]
            .map(|(name, cols)| self.buffer(name, cols));
        let out = self.buffer("attention", attention.out_cols());
        self.step.push(NormLinear {
            x,
            norm: Some(Norm { weight: weights.attn_norm, eps }),
            projections: vec![projection(weights.q, q), projection(weights.k, k), projection(weights.v, v)],
        });
        self.step.push(RopeStore {
            q,
            k,
            v,
            n_heads: attention.n_heads,
            qk_norm: weights
                .qk_norm
                .map(|norms| QkNorm { q: Norm { weight: norms.q, eps }, k: Norm { weight: norms.k, eps } }),
            rope: match &attention.positions {
                Positions::None => None,
                Positions::Rotary(rope) => Some(rope.table(self.context)),
            },
            cache,
        });
        self.step.push(PagedAttention {
            q,
            cache,
            n_heads: attention.n_heads,
            scale: attention.scale,
            softcap: attention.softcap,
            out,
        });
        self.step.push(LinearAdd {
            x: out,
            weight: weights.attn_output.weight,
            bias: weights.attn_output.bias,
            post_norm: weights.attn_post_norm.map(|weight| Norm { weight, eps }),
            scale: layer.residual_scale,
            residual: x,
        });
    }

    /// `x += ffn(norm(x))`
    fn ffn(&mut self, layer: &LayerConfig, weights: &LayerWeights, x: BufferId) {
        let norm = Norm { weight: weights.ffn_norm, eps: layer.norm_eps };
        let (scale, residual) = (layer.residual_scale, x);
        match (&layer.ffn, &weights.ffn) {
            (&FfnConfig::Dense { n_ff, activation, .. }, FfnWeights::Dense { gate, up, down }) => {
                let [gate_out, up_out] = ["gate", "up"].map(|name| self.buffer(name, n_ff));
                self.step.push(NormLinear {
                    x,
                    norm: Some(norm),
                    projections: vec![projection(*gate, gate_out), projection(*up, up_out)],
                });
                self.step.push(SwigluLinearAdd {
                    gate: gate_out,
                    up: up_out,
                    activation,
                    weight: down.weight,
                    bias: down.bias,
                    post_norm: weights.ffn_post_norm.map(|weight| Norm { weight, eps: layer.norm_eps }),
                    scale,
                    residual,
                });
            }
            (
                &FfnConfig::Moe { n_experts, n_used, renormalise, activation, .. },
                &FfnWeights::Moe { router, gate, up, down },
            ) => self.step.push(MoeAdd {
                x,
                norm,
                router,
                gate,
                up,
                down,
                n_experts,
                n_used,
                renormalise,
                activation,
                scale,
                residual,
            }),
            (FfnConfig::Dense { .. }, FfnWeights::Moe { .. })
            | (FfnConfig::Moe { .. }, FfnWeights::Dense { .. }) => {
                unreachable!("weights are taken as the configuration says")
            }
        }
    }

    /// A buffer of one row a token; layers of one shape share it.
    fn buffer(&mut self, name: &'static str, cols: usize) -> BufferId {
        let known = self.step.buffers().iter().position(|desc| desc.name == name && desc.cols == cols);
        match known {
            Some(index) => BufferId(u32::try_from(index).expect("buffers are few")),
            None => self.step.buffer(name, Rows::Tokens, cols),
        }
    }
}

fn projection(linear: Linear, out: BufferId) -> Projection {
    Projection { weight: linear.weight, bias: linear.bias, out }
}
