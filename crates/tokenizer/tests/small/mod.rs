//! Vocabularies small enough to check by hand.

use gguf::{Array, Metadata};

/// The character that byte-level BPE writes for `byte`, here by GPT-2's own
/// rule: printable bytes for themselves, the others from U+0100 on in order.
fn alphabet() -> Vec<String> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 0x100u32..;
    let mut spell = |b: u8| match printable(b) {
        true => char::from(b),
        false => char::from_u32(others.next().expect("unbounded")).expect("below U+0144"),
    };
    (0..=255).map(|b| spell(b).to_string()).collect()
}

/// Byte-level BPE: tokens 0 to 255 are the bytes, then some words, then
/// control tokens, then one user-defined token.
pub fn bpe() -> Metadata {
    let mut tokens = alphabet();
    tokens.extend(["he", "ll", "hell", "hello", "Ġw", "or", "Ġwor", "ld", "Ġworld"].map(String::from));
    tokens.extend(["<|start|>", "<|im_end|>", "<tag>"].map(String::from));
    let mut types = vec![1; tokens.len()];
    types[265..].copy_from_slice(&[3, 3, 4]);
    let merges = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld"];
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "gpt-2");
    metadata.insert("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.insert("tokenizer.ggml.token_type", Array::I32(types));
    metadata.insert("tokenizer.ggml.merges", Array::String(merges.map(String::from).into()));
    metadata.insert("tokenizer.ggml.bos_token_id", 265u32);
    metadata.insert("tokenizer.ggml.eos_token_id", 266u32);
    metadata
}

/// SentencePiece with byte fallback: `<unk>`, `<s>`, `</s>`, bytes from id 3,
/// then pieces, the better the earlier, from id 259.
pub fn spm() -> Metadata {
    let mut tokens = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255u8).map(|b| format!("<0x{b:02X}>")));
    tokens.extend(["▁a", "ab", "▁ab", "▁", "a", "b", "c", "▁▁"].map(String::from));
    let mut types = vec![1; tokens.len()];
    types[..3].copy_from_slice(&[2, 3, 3]);
    types[3..259].fill(6);
    let scores = (0..tokens.len()).map(|id| if id < 259 { 0.0 } else { -(id as f32) }).collect();
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "llama");
    metadata.insert("tokenizer.ggml.tokens", Array::String(tokens));
    metadata.insert("tokenizer.ggml.token_type", Array::I32(types));
    metadata.insert("tokenizer.ggml.scores", Array::F32(scores));
    metadata
}
