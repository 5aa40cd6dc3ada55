//! One layer of real models' shapes, from the same op list on each backend.

use gguf::Format;
use quarrel_backend::bounds;
use quarrel_backend::cuda::Cuda;
use quarrel_backend::harness::{Case, CaseBuilder, Outcome, Random, inputs, matrix, norm_weight};
use quarrel_backend::kernels::embed::Embed;
use quarrel_backend::kernels::head::Head;
use quarrel_backend::kernels::linear_add::LinearAdd;
use quarrel_backend::kernels::moe_add::MoeAdd;
use quarrel_backend::kernels::norm_linear::{NormLinear, Projection};
use quarrel_backend::kernels::paged_attention::PagedAttention;
use quarrel_backend::kernels::rms_norm::Norm;
use quarrel_backend::kernels::rope_store::{QkNorm, Rope, RopePairs, RopeStore};
use quarrel_backend::kernels::swiglu_linear_add::{Activation, SwigluLinearAdd};
use quarrel_backend::{
    Backend, BufferId, CacheConfig, CacheLayerConfig, CacheLayerId, Cpu, CpuConfig, GroupConfig, KvFormat,
    Weight, WeightId,
};

use crate::{Done, SEED, text};

/// Tokens a page of the cache.
pub const PAGE_SIZE: u32 = 16;

/// A model's sizes.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    pub n_layers: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub n_vocab: usize,
    /// Of keys and values.
    pub kv_format: KvFormat,
    /// Experts in all and of a row; then `n_ff` is an expert's.
    pub experts: Option<(usize, usize)>,
    /// Whether q, k and v have biases, and q and k norms of their heads and pairs of halves.
    pub has_extras: bool,
}

pub const SMOLLM2: Shape = Shape {
    name: "SmolLM2-135M",
    n_layers: 30,
    n_embd: 576,
    n_ff: 1536,
    n_heads: 9,
    n_kv_heads: 3,
    head_dim: 64,
    n_vocab: 49152,
    kv_format: KvFormat::F16,
    experts: None,
    has_extras: false,
};

pub const QWEN: Shape = Shape {
    name: "Qwen2.5-1.5B",
    n_layers: 28,
    n_embd: 1536,
    n_ff: 8960,
    n_heads: 12,
    n_kv_heads: 2,
    head_dim: 128,
    n_vocab: 151_936,
    kv_format: KvFormat::F16,
    experts: None,
    has_extras: false,
};

pub const QWEN_SMALL: Shape =
    Shape { name: "Qwen2.5-0.5B", n_layers: 24, n_embd: 896, n_ff: 4864, n_heads: 14, head_dim: 64, ..QWEN };

pub const MISTRAL: Shape = Shape {
    name: "Mistral-7B",
    n_layers: 32,
    n_embd: 4096,
    n_ff: 14336,
    n_heads: 32,
    n_kv_heads: 8,
    head_dim: 128,
    n_vocab: 32768,
    kv_format: KvFormat::F16,
    experts: None,
    has_extras: false,
};

/// The weights of one layer.
pub struct LayerWeights {
    norm: WeightId,
    /// q, k, v, output, gate, up, down.
    maps: [WeightId; 7],
}

impl Shape {
    fn sizes(&self) -> [(usize, usize); 7] {
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let (n, ff) = (self.n_embd, self.n_ff);
        let each = self.experts.map_or(1, |(n_experts, _)| n_experts);
        [(q, n), (kv, n), (kv, n), (n, q), (each * ff, n), (each * ff, n), (each * n, ff)]
    }

    /// Random values for one layer: a norm, and the maps in `formats`.
    pub fn values(&self, random: &mut Random, formats: [Format; 7]) -> (Weight, [Weight; 7]) {
        let norm = norm_weight(random, self.n_embd);
        let mut formats = formats.into_iter();
        let mut format = || formats.next().expect("one for each map");
        (norm, self.sizes().map(|(rows, cols)| matrix(random, "w", format(), rows, cols)))
    }

    /// Whether rows of its weights are whole blocks of `format`.
    pub fn takes(&self, format: Format) -> bool {
        self.sizes().iter().all(|(_, cols)| cols.is_multiple_of(format.block_len()))
    }

    /// A layer with these values in memory of its own.
    pub fn layer(&self, case: &mut CaseBuilder<'_>, (norm, maps): &(Weight, [Weight; 7])) -> LayerWeights {
        let norm = case.weight(|_| norm.clone());
        LayerWeights { norm, maps: maps.each_ref().map(|map| case.weight(|_| map.clone())) }
    }

    /// A random table for embedding and head.
    pub fn table(&self, case: &mut CaseBuilder<'_>, format: Format) -> WeightId {
        case.weight(|random| matrix(random, "table", format, self.n_vocab, self.n_embd))
    }

    /// A cache of `n_layers` in one group.
    pub fn cache(&self, n_layers: usize, n_pages: u32) -> CacheConfig {
        let layer = CacheLayerConfig {
            group: 0,
            n_kv_heads: self.n_kv_heads,
            k_dim: self.head_dim,
            v_dim: self.head_dim,
            k_format: self.kv_format,
            v_format: self.kv_format,
        };
        let group = GroupConfig { n_pages, page_size: PAGE_SIZE, window: None };
        CacheConfig { groups: vec![group], layers: vec![layer; n_layers] }
    }

    /// Embedding, layers, head; the buffer of the logits.
    pub fn model(&self, case: &mut CaseBuilder<'_>, layers: &[LayerWeights], table: WeightId) -> BufferId {
        let residual = case.buffer("residual", self.n_embd);
        case.push(Embed { table, scale: 17.0, out: residual });
        for (i, weights) in layers.iter().enumerate() {
            self.attention(case, weights, residual, CacheLayerId(i as u32));
            self.feed_forward(case, weights, residual);
        }
        let logits = case.outputs("logits", self.n_vocab);
        let norm = Norm { weight: layers[layers.len() - 1].norm, eps: 1e-5 };
        case.push(Head { x: residual, norm, weight: table, scale: 1.0, softcap: None, out: logits });
        logits
    }

    fn attention(
        &self,
        case: &mut CaseBuilder<'_>,
        weights: &LayerWeights,
        residual: BufferId,
        cache: CacheLayerId,
    ) {
        let [q, k, v] = [("q", self.n_heads), ("k", self.n_kv_heads), ("v", self.n_kv_heads)]
            .map(|(name, heads)| case.buffer(name, heads * self.head_dim));
        let out = case.buffer("attention", self.n_heads * self.head_dim);
        let projections = [(q, 0), (k, 1), (v, 2)];
        let mut bias = |rows| self.has_extras.then(|| case.weight(|random| norm_weight(random, rows)));
        let projections = projections.map(|(out, i)| Projection {
            weight: weights.maps[i],
            bias: bias(self.sizes()[i].0),
            out,
        });
        let norm = Some(Norm { weight: weights.norm, eps: 1e-5 });
        case.push(NormLinear { x: residual, norm, projections: projections.into() });
        let mut norm =
            || Norm { weight: case.weight(|random| norm_weight(random, self.head_dim)), eps: 1e-6 };
        let qk_norm = self.has_extras.then(|| QkNorm { q: norm(), k: norm() });
        let half = self.head_dim / 2;
        let inv_freq = (0..half).map(|i| 10_000_f32.powf(-(i as f32) / half as f32)).collect();
        let pairs = if self.has_extras { RopePairs::Halves } else { RopePairs::Adjacent };
        let rope = Some(Rope { pairs, inv_freq, magnitude: 1.0 });
        case.push(RopeStore { q, k, v, n_heads: self.n_heads, qk_norm, rope, cache });
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        case.push(PagedAttention { q, cache, n_heads: self.n_heads, scale, softcap: None, out });
        let weight = weights.maps[3];
        case.push(LinearAdd { x: out, weight, bias: None, post_norm: None, scale: 1.0, residual });
    }

    /// The feed-forward layer of experts.
    pub fn experts(
        &self,
        case: &mut CaseBuilder<'_>,
        weights: &LayerWeights,
        x: BufferId,
        (n, used): (usize, usize),
    ) {
        let [.., gate, up, down] = weights.maps;
        // As files have it.
        let router = case.weight(|random| matrix(random, "router", Format::F32, n, self.n_embd));
        case.push(MoeAdd {
            x,
            norm: Norm { weight: weights.norm, eps: 1e-5 },
            router,
            gate,
            up,
            down,
            n_experts: n,
            n_used: used,
            renormalise: true,
            activation: Activation::Silu,
            scale: 1.0,
            residual: x,
        });
    }

    fn feed_forward(&self, case: &mut CaseBuilder<'_>, weights: &LayerWeights, residual: BufferId) {
        if let Some(experts) = self.experts {
            return self.experts(case, weights, residual, experts);
        }
        let [gate, up] = ["gate", "up"].map(|name| case.buffer(name, self.n_ff));
        let projections = [(gate, 4), (up, 5)];
        let projections = projections.map(|(out, i)| Projection { weight: weights.maps[i], bias: None, out });
        let norm = Some(Norm { weight: weights.norm, eps: 1e-5 });
        case.push(NormLinear { x: residual, norm, projections: projections.into() });
        let (activation, weight) = (Activation::Silu, weights.maps[6]);
        let (bias, post_norm, scale) = (None, None, 1.0);
        case.push(SwigluLinearAdd { gate, up, activation, weight, bias, post_norm, scale, residual });
    }

    /// One layer with what stands around it, over `runs` of `(rows, context)` a sequence.
    pub fn case(&self, format: Format, runs: &[&[(u32, u32)]]) -> Case {
        self.mixed_case([format; 7], runs)
    }

    /// As [`case`](Self::case); the table is in the last map's format.
    pub fn mixed_case(&self, formats: [Format; 7], runs: &[&[(u32, u32)]]) -> Case {
        let format = formats[6];
        let mut random = Random::new(SEED);
        // The errors of the layer's maps and attention, added; the head's map follows.
        let map = bounds::linear(format, self.n_embd);
        let attention = bounds::attention(self.head_dim, 64, KvFormat::F16, KvFormat::F16);
        let bound = map.times(4.0).plus(bounds::gated_linear(format, self.n_ff)).plus(attention);
        let mut case = CaseBuilder::new(&mut random, format!("{} {format}", self.name), bound);
        let values = self.values(case.random, formats);
        let layer = self.layer(&mut case, &values);
        let table = self.table(&mut case, format);
        let logits = self.model(&mut case, &[layer], table);
        let longest = runs.iter().flat_map(|run| run.iter().map(|&(_, context)| context)).max();
        let cache = self.cache(1, longest.unwrap_or(0).div_ceil(PAGE_SIZE).max(256));
        let runs = runs.iter().map(|run| inputs(&cache, run)).collect();
        case.build(cache, runs, vec![logits])
    }
}

/// The same op list on the reference, the CPU and the device: a prompt in two
/// chunks, then single tokens; and single tokens alone, as buckets of one token have kernels of their own, by the length of the
/// context too. What those see was never stored, and is zero in any cache: of long contexts' attention that shows little, but runs
/// all of it for the sanitizer; its bits are `invariance`'s.
pub fn compare(cuda: &mut Cuda) -> Done {
    let mut cpu = Cpu::new(CpuConfig::default()).map_err(text)?;
    let prompt: &[&[(u32, u32)]] = &[&[(9, 9)], &[(3, 12)], &[(1, 13)], &[(1, 14)]];
    let single: &[&[(u32, u32)]] = &[&[(1, 1)], &[(1, 700)], &[(1, 3000)], &[(1, 9000)]];
    for (shape, format, runs) in [
        (SMOLLM2, Format::Q4_0, prompt),
        (SMOLLM2, Format::Q8_0, prompt),
        (MISTRAL, Format::Q4_0, prompt),
        (MISTRAL, Format::Q4_0, single),
    ] {
        let case = shape.case(format, runs);
        let backends: [&mut dyn Backend; 2] = [&mut cpu, cuda];
        for backend in backends {
            match case.check(backend, SEED)? {
                Outcome::Within(worst) => {
                    let name = backend.name();
                    println!("layer {} on {name}: off by {worst:?}, allowed {:?}", case.name, case.bound);
                }
                Outcome::Absent(reason) => return Err(format!("{}: {reason}", case.name)),
            }
        }
    }
    Ok(())
}
