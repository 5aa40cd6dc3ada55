//! Any text with small vocabularies of every pre-tokenizer: it survives
//! encoding and decoding. Any vocabulary: an error, or ids within it.
#![no_main]

#[path = "../../crates/tokenizer/tests/small/mod.rs"]
mod small;

use std::sync::LazyLock;

use gguf::{Array, Metadata};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use tokenizer::{Decode, Detokenizer, Encode, Tokenizer};

/// One name for each pattern.
const PRE_TOKENIZERS: [&str; 23] = [
    "default",
    "gpt-2",
    "smollm",
    "falcon",
    "llama-bpe",
    "dbrx",
    "glm4",
    "qwen2",
    "qwen35",
    "ufakzeka",
    "laguna",
    "minicpm5",
    "seed-coder",
    "deepseek-llm",
    "deepseek-coder",
    "deepseek-v3",
    "tekken",
    "gpt-4o",
    "kimi-k2",
    "bloom",
    "viking",
    "exaone-moe",
    "sarvam-moe",
];

/// Vocabularies that spell any text. The flag: they write spaces as `▁`.
static SMALL: LazyLock<Vec<(Tokenizer, bool)>> = LazyLock::new(|| {
    let byte_level = PRE_TOKENIZERS.iter().filter(|&&pre| pre != "sarvam-moe").map(|&pre| {
        let mut metadata = small::bpe();
        metadata.insert("tokenizer.ggml.pre", pre);
        (metadata, false)
    });
    let all = byte_level.chain([(small::spm(), true)]);
    all.map(|(m, spaced)| (Tokenizer::from_metadata(&m).expect("a valid vocabulary"), spaced)).collect()
});

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    match SMALL.get(usize::from(choice)) {
        Some((tokenizer, spaced)) => round_trip(tokenizer, *spaced, &String::from_utf8_lossy(rest)),
        None => drop(any_vocabulary(&mut Unstructured::new(rest))),
    }
});

fn round_trip(tokenizer: &Tokenizer, spaced: bool, text: &str) {
    let text = if spaced { text.replace('▁', "") } else { text.to_owned() };
    let whole = Decode { special: true, from_start: true };
    let ids = tokenizer.encode(&text, Encode::default());
    assert_eq!(tokenizer.decode(&ids, whole), text);
    use_ids(tokenizer, &ids);
    use_ids(tokenizer, &tokenizer.encode(&text, Encode { add_special: true, parse_special: true }));
}

/// Ids are of the vocabulary, and decode alike one by one and at once.
fn use_ids(tokenizer: &Tokenizer, ids: &[u32]) {
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    for special in [false, true] {
        let opts = Decode { special, from_start: special };
        let mut stream = Detokenizer::new(tokenizer, opts);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, tokenizer.decode(ids, opts));
    }
}

/// A vocabulary, a text and ids out of the bytes at hand.
fn any_vocabulary(u: &mut Unstructured) -> Result<()> {
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", *u.choose(&["gpt2", "llama", "gemma4", "t5"])?);
    metadata.insert("tokenizer.ggml.pre", *u.choose(&PRE_TOKENIZERS)?);
    let tokens: Vec<String> = u.arbitrary()?;
    let len = tokens.len();
    metadata.insert("tokenizer.ggml.tokens", Array::String(tokens));
    if u.arbitrary()? {
        let types = (0..len).map(|_| u.int_in_range(0..=7)).collect::<Result<_>>()?;
        metadata.insert("tokenizer.ggml.token_type", Array::I32(types));
    }
    if u.arbitrary()? {
        metadata.insert("tokenizer.ggml.scores", Array::F32(u.arbitrary()?));
    } else if u.arbitrary()? {
        let scores = (0..len).map(|_| u.arbitrary()).collect::<Result<_>>()?;
        metadata.insert("tokenizer.ggml.scores", Array::F32(scores));
    }
    metadata.insert("tokenizer.ggml.merges", Array::String(u.arbitrary()?));
    for key in ["bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id", "padding_token_id"] {
        if u.arbitrary()? {
            metadata.insert(format!("tokenizer.ggml.{key}"), u.int_in_range(-2..=8i32)?);
        }
    }
    for key in ["add_bos_token", "add_eos_token", "add_space_prefix"] {
        if u.arbitrary()? {
            metadata.insert(format!("tokenizer.ggml.{key}"), u.arbitrary::<bool>()?);
        }
    }
    metadata.insert("general.name", *u.choose(&["", "Phi-3"])?);
    let tokenizer = match Tokenizer::from_metadata(&metadata) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return Ok(drop(error.to_string())),
    };
    let opts = Encode { add_special: u.arbitrary()?, parse_special: u.arbitrary()? };
    let ids: Vec<u8> = u.arbitrary()?;
    let ids: Vec<u32> = ids.into_iter().map(|id| u32::from(id) % tokenizer.vocab_size() as u32).collect();
    use_ids(&tokenizer, &ids);
    use_ids(&tokenizer, &tokenizer.encode(u.arbitrary()?, opts));
    Ok(())
}
