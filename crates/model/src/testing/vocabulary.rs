//! The test models' vocabulary: SentencePiece with every byte and a few pieces,
//! padded for models of real size.

use gguf::{Array, Metadata};

/// Tokens of the tiny models: 3 special, 256 bytes, the rest pieces of one or two letters.
pub(super) const N_VOCAB: usize = 288;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

/// Inserts a vocabulary of `n_vocab` tokens, the tiny models' first; there are
/// 475,254 words of one to four letters to pad it with.
pub(super) fn insert(metadata: &mut Metadata, n_vocab: usize) {
    let special = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)];
    let special = special.map(|(text, kind)| (text.to_owned(), 0.0, kind));
    let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), 0.0, BYTE));
    // U+2581 stands for a space in SentencePiece.
    let letters = "\u{2581}etaoinshrdlucmfwygpb";
    let single = letters.chars().map(String::from);
    let double = ["th", "he", "in", "er", "an", "\u{2581}t", "\u{2581}a", "on", "\u{2581}th"];
    let pieces = single.chain(double.map(String::from));
    let padding = (1..=4).flat_map(words).map(|word| format!("\u{2581}{word}"));
    let fresh = padding.filter(|word| !double.contains(&word.as_str()));
    let pieces = pieces.chain(fresh).enumerate().map(|(i, text)| (text, -(i as f32), NORMAL));
    let all: Vec<_> = special.into_iter().chain(bytes).chain(pieces).take(n_vocab).collect();
    assert_eq!(all.len(), n_vocab, "the lists above fill the vocabulary");
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

/// Every word of `len` letters from a to z.
fn words(len: u32) -> impl Iterator<Item = String> {
    let letter = |n: usize, place| char::from(b'a' + (n / 26usize.pow(place) % 26) as u8);
    (0..26usize.pow(len)).map(move |n| (0..len).rev().map(|place| letter(n, place)).collect())
}
