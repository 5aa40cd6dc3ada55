//! Random models of real models' shapes, for measuring: what a step costs
//! depends on shapes and formats, not on what a model has learnt.

use std::collections::{HashMap, hash_map::Entry};
use std::io::Write;

use gguf::{Format, Metadata, TensorInfo, Writer};

use super::random::Random;
use super::tensors::{self, Tensor};
use super::variants::{Key::F32, PLAIN, Variant};
use super::vocabulary::N_VOCAB;
use crate::quantize::{Recipe, formats};
use crate::{Error, Result};

/// Sizes as in the models' published configurations.
const SHAPES: &[Variant] = &[
    Variant {
        name: "smollm2-135m",
        n_layers: 30,
        context_length: 8192,
        n_vocab: 49_152,
        n_embd: 576,
        n_ff: 1536,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        rope_dims: 64,
        tied: true,
        keys: &[("rope.freq_base", F32(100_000.0))],
        ..PLAIN
    },
    Variant {
        name: "llama-3.2-1b",
        n_layers: 16,
        context_length: 131_072,
        n_vocab: 128_256,
        n_embd: 2048,
        n_ff: 8192,
        n_heads: 32,
        n_kv_heads: 8,
        head_dim: 64,
        rope_dims: 64,
        tied: true,
        keys: &[("rope.freq_base", F32(500_000.0))],
        ..PLAIN
    },
    MISTRAL_7B,
    Variant {
        name: "llama-3.1-8b",
        context_length: 131_072,
        n_vocab: 128_256,
        keys: &[("rope.freq_base", F32(500_000.0))],
        ..MISTRAL_7B
    },
    Variant {
        name: "qwen3-8b",
        architecture: "qwen3",
        n_layers: 36,
        context_length: 40_960,
        n_vocab: 151_936,
        n_ff: 12_288,
        qk_norm: true,
        ..MISTRAL_7B
    },
];

/// Version 0.3.
const MISTRAL_7B: Variant = Variant {
    name: "mistral-7b",
    n_layers: 32,
    context_length: 32_768,
    n_vocab: 32_768,
    n_embd: 4096,
    n_ff: 14_336,
    n_heads: 32,
    n_kv_heads: 8,
    head_dim: 128,
    rope_dims: 128,
    keys: &[("rope.freq_base", F32(1_000_000.0))],
    ..PLAIN
};

/// What may differ from the real model.
#[derive(Debug, Clone, Copy)]
pub struct ShapeOptions {
    /// Formats of the tensors, as `quarrel quantize` would choose them.
    pub recipe: Recipe,
    /// Layers; `None` for as many as the real model has.
    pub layers: Option<usize>,
    /// Tokens in the vocabulary; `None` for as many as the real model has.
    pub vocab: Option<usize>,
    /// The same seed gives the same file.
    pub seed: u64,
}

/// The models whose shapes are known.
pub fn shape_names() -> impl ExactSizeIterator<Item = &'static str> {
    SHAPES.iter().map(|variant| variant.name)
}

/// Writes a random model of the shape `name` to `out`, tensor by tensor.
/// Matrices keep their input's size, so that logits are finite and of size one.
///
/// # Errors
/// [`Error::Option`] for an unknown name, no layers, or a vocabulary smaller
/// than the tiny models' or larger than there are words for; what `out` says.
pub fn write_shape<W: Write>(out: W, name: &str, options: &ShapeOptions) -> Result<W> {
    let variant = variant(name, options)?;
    let tensors = tensors::list(&variant);
    let metadata = metadata(&variant, options.recipe);
    let mut infos: Vec<TensorInfo> = tensors.iter().map(|tensor| tensor.info.clone()).collect();
    let formats = formats(&metadata, &infos, options.recipe, &[])?;
    infos.iter_mut().zip(&formats).for_each(|(info, format)| info.format = *format);
    let mut writer = Writer::new(out, &metadata, infos)?;
    let mut pools = HashMap::new();
    for (tensor, format) in tensors.iter().zip(formats) {
        let name = &tensor.info.name;
        let mut random = Random::new(options.seed, name);
        let Some(range) = tensor.matrix_range() else {
            let values: Vec<u8> = tensor.values(&mut random).flat_map(f32::to_le_bytes).collect();
            writer.write(name, &values)?;
            continue;
        };
        let pool = match pools.entry((format, range.to_bits())) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Pool::new(format, range, options.seed)?),
        };
        pool.fill(tensor, &mut random, |row| writer.write(name, row))?;
    }
    Ok(writer.finish()?)
}

fn variant(name: &str, options: &ShapeOptions) -> Result<Variant> {
    let wrong = |option, problem| Err(Error::Option { option, problem });
    let Some(known) = SHAPES.iter().find(|variant| variant.name == name) else {
        let known: Vec<_> = shape_names().collect();
        return wrong("shape", format!("`{name}` is not one of {}", known.join(", ")));
    };
    let n_layers = options.layers.unwrap_or(known.n_layers);
    let n_vocab = options.vocab.unwrap_or(known.n_vocab);
    if !(1..=1000).contains(&n_layers) {
        return wrong("layers", format!("is {n_layers}, but must be from 1 to 1000"));
    }
    if !(N_VOCAB..=400_000).contains(&n_vocab) {
        return wrong("vocab", format!("is {n_vocab}, but must be from {N_VOCAB} to 400000"));
    }
    Ok(Variant { n_layers, n_vocab, ..*known })
}

fn metadata(variant: &Variant, recipe: Recipe) -> Metadata {
    let mut metadata = super::metadata(variant);
    metadata.insert("general.name", "random");
    metadata.insert("general.quantization_version", 2u32);
    metadata.insert("general.file_type", recipe.file_type());
    metadata
}

/// Blocks of random values that matrices take their rows from: quantising
/// every value of a large model would take minutes.
struct Pool {
    format: Format,
    blocks: Vec<u8>,
}

impl Pool {
    /// Values of the pool: more than any row has, so that rows differ.
    const LEN: usize = 1 << 20;

    /// Values uniform in `-range..range`.
    fn new(format: Format, range: f32, seed: u64) -> Result<Self> {
        let mut random = Random::new(seed, "pool");
        let values: Vec<f32> = (0..Self::LEN).map(|_| range * random.signed()).collect();
        let mut blocks = vec![0; format.row_bytes(Self::LEN)?];
        format.quantize(&values, &mut blocks)?;
        Ok(Self { format, blocks })
    }

    /// Gives a matrix's rows to `sink`, each from a random place of the pool.
    fn fill(
        &self,
        tensor: &Tensor,
        random: &mut Random,
        mut sink: impl FnMut(&[u8]) -> gguf::Result<()>,
    ) -> Result<()> {
        let (cols, rows) = tensor.info.shape.split_first().expect("matrices have dimensions");
        let bytes = self.format.row_bytes(*cols as usize)?;
        let starts = (self.blocks.len() - bytes) / self.format.block_bytes();
        for _ in 0..rows.iter().product::<u64>() {
            let start = random.below(starts as u64) as usize * self.format.block_bytes();
            sink(&self.blocks[start..start + bytes])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use backend::{Cpu, CpuConfig, Role};
    use gguf::{Bytes, ModelFile};

    use super::*;
    use crate::single::{Rows, batch};
    use crate::{LoadOptions, ModelRunner, load};

    fn options(recipe: Recipe) -> ShapeOptions {
        ShapeOptions { recipe, layers: Some(1), vocab: Some(2000), seed: 1 }
    }

    fn written(name: &str, recipe: Recipe) -> Vec<u8> {
        write_shape(Vec::new(), name, &options(recipe)).expect("known and small")
    }

    #[test]
    fn files_load_and_compute() {
        for recipe in [Recipe::Q4_0, Recipe::Q4_K_M, Recipe::BF16] {
            let bytes = written("smollm2-135m", recipe);
            assert_eq!(bytes, written("smollm2-135m", recipe), "the same seed, the same file");
            let file = ModelFile::from_bytes(Bytes::from(bytes)).expect("readable");
            let backend = Cpu::new(CpuConfig { threads: Some(1), ..CpuConfig::default() }).expect("a CPU");
            let options = LoadOptions { context: Some(64), ..LoadOptions::default() };
            let mut model = load(&file, Box::new(backend), &options).expect("a model");
            let rows = Rows { ids: &[1, 1999, 300], start: 0, role: Role::Prompt };
            let batch = batch(model.groups(), &rows, vec![2]);
            model.forward(&batch).expect("a step");
            let logits = model.logits().expect("an output was asked for");
            assert_eq!(logits.len(), 2000);
            let size = (logits.iter().map(|x| x * x).sum::<f32>() / 2000.0).sqrt();
            assert!((0.1..10.0).contains(&size), "{recipe}: logits of size {size}");
        }
    }

    #[test]
    fn every_shape_is_described_consistently() {
        for variant in SHAPES {
            let tensors = tensors::list(variant);
            let infos: Vec<TensorInfo> = tensors.iter().map(|tensor| tensor.info.clone()).collect();
            let metadata = metadata(variant, Recipe::Q4_K_M);
            formats(&metadata, &infos, Recipe::Q4_K_M, &[]).expect("all rows are whole blocks or fall back");
            assert_eq!(variant.n_heads % variant.n_kv_heads, 0);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |name, change: fn(&mut ShapeOptions)| {
            let mut options = options(Recipe::Q4_0);
            change(&mut options);
            write_shape(Vec::new(), name, &options).expect_err("refused").to_string()
        };
        assert!(refused("gpt-5", |_| ()).contains("mistral-7b"));
        assert!(refused("mistral-7b", |options| options.layers = Some(0)).contains("layers"));
        assert!(refused("mistral-7b", |options| options.vocab = Some(10)).contains("288"));
    }
}
