//! The tiny models' vocabulary: SentencePiece with every byte and a few pieces.

use gguf::{Array, Metadata};

/// Tokens: 3 special, 256 bytes, the rest pieces of one or two letters.
pub(super) const N_VOCAB: usize = 288;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

pub(super) fn insert(metadata: &mut Metadata) {
    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let special = special.map(|(text, kind)| (text.to_owned(), 0.0, kind));
    let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, BYTE));
    // U+2581 stands for a space in SentencePiece.
    let letters = "\u{2581}etaoinshrdlucmfwygpb";
    let single = letters.chars().map(String::from);
    let double = ["th", "he", "in", "er", "an", "\u{2581}t", "\u{2581}a", "on", "\u{2581}th"];
    let pieces = single.chain(double.map(String::from));
    let pieces = pieces.enumerate().map(|(i, text)| (text, -(i as f32), NORMAL));
    let all: Vec<_> = special.into_iter().chain(bytes).chain(pieces).take(N_VOCAB).collect();
    assert_eq!(all.len(), N_VOCAB, "the list above fills the vocabulary");
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata
        .insert("tokenizer.ggml.tokens", Array::String(all.iter().map(|(text, ..)| text.clone()).collect()));
    metadata.insert("tokenizer.ggml.scores", Array::F32(all.iter().map(|&(_, score, _)| score).collect()));
    metadata.insert("tokenizer.ggml.token_type", Array::I32(all.iter().map(|&(.., kind)| kind).collect()));
    metadata.insert("tokenizer.ggml.unknown_token_id", 0u32);
    metadata.insert("tokenizer.ggml.bos_token_id", 1u32);
    metadata.insert("tokenizer.ggml.eos_token_id", 2u32);
    metadata.insert("tokenizer.ggml.add_bos_token", true);
}
