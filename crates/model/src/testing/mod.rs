//! Tiny random models for tests and tools: every architecture and variant, a few
//! hundred kilobytes each, the same bytes on every machine.
//!
//! They carry a small SentencePiece vocabulary, so that other engines load
//! them too: the golden logits in `tests/data` come from llama.cpp running
//! these very files (`tests/data/golden_tiny.py` has the command).

mod hf;
mod random;
mod shapes;
mod tensors;
mod variants;
mod vocabulary;

use gguf::{Bytes, Metadata, ModelFile, Writer};

pub use hf::tiny_hf;
use random::Random;
pub use shapes::{ShapeOptions, shape_names, write_shape};
use variants::{VARIANTS, Variant};

/// Names of the tiny models: an architecture, often with what is special.
pub fn tiny_names() -> impl ExactSizeIterator<Item = &'static str> {
    VARIANTS.iter().map(|variant| variant.name)
}

/// A complete GGUF file of the tiny model `name`, weights drawn from `seed`;
/// `None` for a name that is not one of [`tiny_names`].
pub fn tiny_bytes(name: &str, seed: u64) -> Option<Vec<u8>> {
    let variant = VARIANTS.iter().find(|variant| variant.name == name)?;
    let metadata = metadata(variant);
    let tensors = tensors::list(variant);
    let infos = tensors.iter().map(|tensor| tensor.info.clone()).collect();
    let mut writer = Writer::new(Vec::new(), &metadata, infos).expect("the description is valid");
    for tensor in &tensors {
        // Each tensor has a stream of its own, so that variants share what they have in common.
        let mut random = Random::new(seed, &tensor.info.name);
        let values: Vec<u8> = tensor.values(&mut random).flat_map(f32::to_le_bytes).collect();
        writer.write(&tensor.info.name, &values).expect("the data have the described size");
    }
    Some(writer.finish().expect("all tensors were written"))
}

/// As [`tiny_bytes`], opened.
pub fn tiny(name: &str, seed: u64) -> Option<ModelFile> {
    let bytes = tiny_bytes(name, seed)?;
    Some(ModelFile::from_bytes(Bytes::from(bytes)).expect("what the writer wrote can be read"))
}

/// `n` token ids within the tiny models' vocabulary, the same for the same seed.
pub fn tiny_tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed, "tokens");
    (0..n).map(|_| random.below(vocabulary::N_VOCAB as u64) as u32).collect()
}

fn metadata(variant: &Variant) -> Metadata {
    let mut metadata = Metadata::new();
    let arch = variant.architecture;
    metadata.insert("general.architecture", arch);
    // No real family in the name: llama.cpp fixes up the vocabularies of some by it.
    metadata.insert("general.name", "tiny");
    metadata.insert("general.file_type", 0u32);
    let mut set = |suffix: &str, value: usize| metadata.insert(format!("{arch}.{suffix}"), value as u32);
    set("block_count", variant.n_layers);
    set("context_length", variant.context_length);
    set("embedding_length", variant.n_embd);
    set("feed_forward_length", variant.n_ff);
    set("attention.head_count", variant.n_heads);
    set("attention.head_count_kv", variant.n_kv_heads);
    set("attention.key_length", variant.head_dim);
    set("attention.value_length", variant.head_dim);
    set("rope.dimension_count", variant.rope_dims);
    set("vocab_size", variant.n_vocab);
    if let Some(experts) = &variant.experts {
        set("expert_count", experts.n);
        set("expert_used_count", experts.used);
        // Mixtral's files give their experts' width as the model's.
        if experts.n_ff != variant.n_ff {
            set("expert_feed_forward_length", experts.n_ff);
        }
    }
    metadata.insert(format!("{arch}.attention.layer_norm_rms_epsilon"), 1e-5f32);
    for (suffix, value) in variant.keys {
        metadata.insert(format!("{arch}.{suffix}"), value.to_value());
    }
    vocabulary::insert(&mut metadata, variant.n_vocab);
    metadata
}
